"""The plots of a report: accuracies, margins, lengths, training curves, strategies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stepagent.report.results import COLUMNS, ModelResult
from stepagent.report.shapes import Comparison
from stepagent.report.svg import COLOURS, MARKERS, draw

_BINS = 20
_LINES = 6  # of a plot: more could not be told apart
CURVES = {
    "loss": ("loss",),
    "margin": ("margin",),
    "log-probability of the step": ("chosen_logp", "rejected_logp"),
    "KL to the model before": ("kl",),
}
"""Panels of a training, each with the metrics that it draws."""
_WORDS = {"chosen_logp": "chosen", "rejected_logp": "rejected"}


def accuracy(results: Sequence[ModelResult]) -> str | None:
    """Return the plot of every share over the models, with 95 % intervals."""

    def paint(axes: Any) -> None:
        lines = [(key, words) for key, words in COLUMNS.items() if key != "valid"]
        for number, (key, words) in enumerate(lines):
            points = [(i, result.shares[key]) for i, result in enumerate(results) if key in result.shares]
            if not points:
                continue
            shift = (number - (len(lines) - 1) / 2) * 0.05  # so that intervals of equal shares do not hide each other
            bounds = [share.interval for _, share in points]
            values = [100 * share.value for _, share in points]
            errors = [
                [value - 100 * low for value, (low, _) in zip(values, bounds, strict=True)],
                [100 * high - value for value, (_, high) in zip(values, bounds, strict=True)],
            ]
            axes.errorbar(
                [i + shift for i, _ in points],
                values,
                yerr=errors,
                color=COLOURS[number],
                marker=MARKERS[number],
                markersize=5,
                capsize=3,
                label=words,
            )
        axes.set_xticks(range(len(results)), [_plain(result.name) for result in results])
        axes.set_ylim(-2, 103)
        axes.set_ylabel("%")

    return draw("accuracy", "Accuracy of the models, in percent, with 95 % intervals", paint)


def margins(by_place: Mapping[str, Sequence[float]]) -> str | None:
    """Return the plot of the margins of the pairs, as shares of the pairs of each place."""

    def paint(axes: Any) -> None:
        edges = [0.5 + i / (2 * _BINS) for i in range(_BINS + 1)]
        for number, (place, values) in enumerate(by_place.items()):
            bins = Counter(min(_BINS - 1, max(0, int((value - 0.5) * 2 * _BINS))) for value in values)
            shares = [100 * bins[i] / len(values) for i in range(_BINS)]
            axes.stairs(shares, edges, color=COLOURS[number % 7], linewidth=1.6, label=_plain(place), fill=False)
        axes.set_xlabel("margin: estimated probability that best beats worst")
        axes.set_ylabel("% of the pairs")
        axes.set_ylim(bottom=0)

    return draw("margins", "Margins of the preference pairs", paint)


def lengths(by_place: Mapping[str, Counter[int]]) -> str | None:
    """Return the plot of the number of steps of solutions that ended."""

    def paint(axes: Any) -> None:
        for number, (place, counts) in enumerate(by_place.items()):
            steps = range(min(counts), max(counts) + 1)
            shares = [100 * counts[step] / counts.total() for step in steps]
            style = {"color": COLOURS[number % 7], "marker": MARKERS[number % 7], "label": _plain(place)}
            axes.plot(steps, shares, markersize=5, **style)
        longest = max(max(counts) for counts in by_place.values())
        axes.set_xticks(range(0, longest + 2, 1 + longest // 12))
        axes.set_xlim(0, longest + 1)
        axes.set_xlabel("steps of a solution")
        axes.set_ylabel("% of the solutions")
        axes.set_ylim(bottom=0)

    return draw("lengths", "Lengths of the solutions, in steps", paint)


def spread(names: Sequence[str]) -> list[str]:
    """Return as many names as one plot may have lines, the first and the last among them."""
    if len(names) <= _LINES:
        return list(names)
    return [names[round(i * (len(names) - 1) / (_LINES - 1))] for i in range(_LINES)]


def training(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str | None]:
    """Return a plot for each panel of CURVES that has figures; `curves` are the steps of each training, by the model
    that came out."""
    curves = {name: curves[name] for name in spread(list(curves))}
    panels = []
    for number, (title, metrics) in enumerate(CURVES.items()):
        lines = [
            (place, metric, _line(steps, metric))
            for place, steps in enumerate(curves.values())
            for metric in metrics
            if any(metric in step for step in steps)
        ]
        if lines:
            panels.append(_panel(f"training-{number}", title, list(curves), lines=lines))
    return panels


def _panel(
    name: str, title: str, models: Sequence[str], *, lines: Sequence[tuple[int, str, list[tuple[float, float]]]]
) -> str | None:
    def paint(axes: Any) -> None:
        for place, metric, points in lines:
            words = f"{_plain(models[place])} {_WORDS.get(metric, '')}".strip()
            dash = "--" if metric == "rejected_logp" else "-"
            axes.plot(*zip(*points, strict=True), color=COLOURS[place % 7], linestyle=dash, linewidth=1.4, label=words)
        axes.set_xlabel("% of the training's steps")
        axes.set_title(title, loc="left")

    return draw(name, f"Training: {title}", paint)


def _line(steps: Sequence[Mapping[str, float]], metric: str) -> list[tuple[float, float]]:
    points = [(100 * row["step"] / max(row["steps"], 1), row[metric]) for row in steps if metric in row]
    window = max(1, len(points) // 40)  # the mean of neighbours: single batches are noise
    parts = [points[i : i + window] for i in range(0, len(points), window)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def strategies(comparison: Comparison) -> str | None:
    """Return the plot of accuracy against sampled tokens a problem, a line for each strategy."""

    def paint(axes: Any) -> None:
        for number, name in enumerate(dict.fromkeys(point.strategy for point in comparison.points)):
            line = sorted((p for p in comparison.points if p.strategy == name), key=lambda point: point.tokens)
            errors = [
                [100 * (point.accuracy - point.low) for point in line],
                [100 * (point.high - point.accuracy) for point in line],
            ]
            values, tokens = [100 * point.accuracy for point in line], [point.tokens for point in line]
            style = {"color": COLOURS[number % 7], "marker": MARKERS[number % 7], "label": _plain(name)}
            axes.errorbar(tokens, values, yerr=errors, capsize=3, markersize=5, **style)
        axes.axvline(comparison.budget, color="#7f7f7f", linestyle="--", linewidth=1, label="budget")
        axes.set_xscale("log")
        axes.set_xlabel("sampled tokens a problem, the judge's included")
        axes.set_ylabel("solved, %")

    return draw("strategies", "Accuracy of the strategies against their cost", paint)


def _plain(name: str) -> str:
    """Return a name in which matplotlib sees no formula."""
    return name.replace("$", r"\$")
