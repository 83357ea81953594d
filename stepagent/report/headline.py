"""The sentences at the top of a report: the result, and the things that are not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stepagent.report.behaviour import Behaviour, Turn
from stepagent.report.folder import ReportFolder
from stepagent.report.results import Gain, ModelResult
from stepagent.report.shapes import Comparison
from stepagent.report.verdict_errors import JudgeRecord


def headlines(
    results: Sequence[ModelResult],
    steps: Sequence[Gain],
    rounds: Sequence[Turn],
    *,
    behaviour: Sequence[Behaviour],
    comparison: Comparison | None,
    records: Sequence[JudgeRecord],
) -> list[tuple[str, str]]:
    """Return the result in a few figures, each with a sentence that says what it is."""
    tiles: list[tuple[str, str]] = []
    if results and "greedy" in results[-1].shares:
        last, share = results[-1], results[-1].shares["greedy"]
        low, high = share.interval
        words = (
            f"of {share.whole:,} held-out problems {last.name} solves greedily ({100 * low:.1f} to {100 * high:.1f})"
        )
        tiles.append((f"{100 * share.value:.1f} %", words))
    if steps:
        gain = next((step for step in reversed(steps) if step.base == "M_1"), steps[-1])
        words = f"points more than {gain.base} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}, paired)"
        tiles.append((f"{100 * gain.gain:+.1f}", words))
    tiles += _comparison_tiles(comparison)
    tiles += _judge_tiles(results, records)
    tiles += _search_tiles(rounds, behaviour)
    return [(figure.replace("-", "−"), words.replace(" -", " −").replace("(-", "(−")) for figure, words in tiles]


def _comparison_tiles(comparison: Comparison | None) -> list[tuple[str, str]]:
    if comparison is None or not comparison.at_budget:
        return []
    best = max(comparison.at_budget.values(), key=lambda point: point.accuracy)
    words = f"solved by {best.strategy}, the best within {comparison.budget:,} tokens a problem"
    return [(f"{100 * best.accuracy:.1f} %", words)]


def _judge_tiles(results: Sequence[ModelResult], records: Sequence[JudgeRecord]) -> list[tuple[str, str]]:
    judged = [record for record in records if record.items]
    if not judged:
        return []
    last = judged[-1]
    name = f"{last.model} judges" if last.model else "judged"
    tiles = [(f"{100 * last.right / last.items:.1f} %", f"of {last.items:,} labelled items {name} right")]
    if results:
        drifted = [result.name for result in results if result.drift]
        tiles.append((", ".join(drifted) or "none", "drifted from M_1"))
    return tiles


def _search_tiles(rounds: Sequence[Turn], behaviour: Sequence[Behaviour]) -> list[tuple[str, str]]:
    if rounds:
        pairs, trees = sum(turn.counts.pairs for turn in rounds), sum(turn.counts.trees for turn in rounds)
        return [(f"{pairs:,}", f"pairs from {trees:,} trees in {len(rounds)} round{'s' * (len(rounds) > 1)}")]
    return [(f"{row.counts.pairs:,}", f"pairs from {row.counts.trees:,} trees of {row.place}") for row in behaviour[:1]]


def missing(
    folder: ReportFolder,
    results: Sequence[ModelResult],
    rounds: Sequence[Turn],
    *,
    plots: Mapping[str, Sequence[object]],
    curves: Mapping[str, object],
) -> list[str]:
    """Return a sentence for each thing that a reader would look for and that the folder does not hold."""
    sentences = []
    if rounds and not results:
        sentences.append("No model of this run was evaluated ('evaluate' in the config): there is no accuracy to show.")
    sentences += [
        f"{result.failed_grades:,} solutions of {result.name} have no mark and count nowhere: the grader failed, the "
        f"first time with {result.grade_error}."
        for result in results
        if result.failed_grades
    ]
    if rounds and not (folder.path / "summary.json").is_file():
        sentences.append("The run has not ended: this is as far as it has come; write the report again later.")
    if rounds and any(turn.training for turn in rounds) and not curves:
        sentences.append("No training curves: the run was trained by a version that kept none.")
    if not any(plots.values()) and (len(results) > 1 or rounds):
        sentences.append("No plots: matplotlib is not installed (pip install matplotlib).")
    return sentences
