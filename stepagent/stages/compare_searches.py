"""Stage: strategies at equal cost. Each is run at growing sizes until a problem costs more than the
budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from stepagent.assembly.components import Components, make_strategy, parameters_of
from stepagent.assembly.identity import SEARCH_KEYS, identity
from stepagent.config.settings import Component, Config
from stepagent.console import console, output
from stepagent.errors import ConfigError
from stepagent.files.jsonl import write_atomic
from stepagent.files.runs import RunFolder
from stepagent.interfaces import SearchStrategy
from stepagent.report.comparison import plot
from stepagent.report.shares import share, wilson
from stepagent.seeds import derive_seed
from stepagent.stages.evaluate import is_solved
from stepagent.stages.search import searched
from stepagent.types import Problem, Usage

SIZES = {
    "greedy": ("", 1),
    "best_of_n": ("n", 1),
    "step": ("width", 2),
    "beam": ("beams", 1),
    "dvts": ("subtrees", 1),
    "best_first": ("expansions", 8),
    "mcts": ("simulations", 8),
}
"""What makes a strategy larger, and where it begins. Other kinds, own classes among them, are run as they
are."""

_NEAR = 0.9  # of the budget: no need to come nearer
_BETWEEN = 2  # sizes tried between the largest that fits and the smallest that does not


@dataclass(frozen=True, slots=True)
class Point:
    """One strategy at one size (None if it has none). Tokens, calls, seconds and cost are means over the
    problems: `tokens` are sampled ones, the judge's included; `seconds` run from a problem's first request
    to its end, among all others; `cost` is None without a price table, or where a killed run had begun.
    `low` and `high` bound the accuracy (95 %)."""

    strategy: str
    size: int | None
    accuracy: float
    low: float
    high: float
    solved: int
    problems: int
    tokens: float
    prompt_tokens: float
    calls: float
    seconds: float
    cost: float | None


def compare_stage(
    components: Components,
    config: Config,
    model: str,
    names: Sequence[str],
    budget: int,
    problems: Sequence[Problem],
    source: Path,
    out: Path,
) -> list[Point]:
    """Run every strategy up to `budget` sampled tokens a problem; writes compare.json and compare.png and
    prints the table. Continues what `out` holds."""
    run = RunFolder(out)
    points: list[Point] = []

    def measured(name: str, size: int | None) -> Point:
        folder = out / (name.replace(":", "-") if size is None else f"{name}-{size}")
        settings = _settings(config, name, size)
        seeded = config.model_copy(
            update={"search": settings, "seed": derive_seed(config.seed, "compare", name, size or 0)}
        )
        strategy = make_strategy(seeded, components)
        run.stage(
            folder.name,
            {"model": Path(model), "problems": source},
            {"trees": folder / "trees.jsonl", "point": folder / "point.json"},
            identity(seeded, *SEARCH_KEYS),
            lambda: _measure(components, seeded, strategy, name, size, problems, folder),
        )
        point = TypeAdapter(Point).validate_json((folder / "point.json").read_bytes())
        points.append(point)
        return point

    for name in names:
        _grow(name, budget, measured)
    best = [_at_budget(name, points, budget) for name in names]
    rows = [asdict(point) for point in points]
    chosen = {point.strategy: asdict(point) for point in best if point}
    report = {"budget": budget, "points": rows, "at_budget": chosen}
    write_atomic(out / "compare.json", json.dumps(report, indent=2) + "\n")
    _print(points, best, budget)
    if plot(rows, budget, out / "compare.png"):
        console.print(f"plot: {out / 'compare.png'}", highlight=False, soft_wrap=True)
    return points


def check_names(config: Config, names: Sequence[str]) -> None:
    """Raise ConfigError for a strategy that could not be made."""
    for name in names:
        parameters_of(_settings(config, name, None))
    if len(set(names)) < len(names):
        raise ConfigError("--compare: a strategy is named twice")


def _settings(config: Config, name: str, size: int | None) -> Component:
    """The strategy as the config has it, or with the config's width; of this size."""
    given = config.search.arguments()
    if config.search.kind != name:
        known = parameters_of(Component(kind=name))
        given = {key: given[key] for key in ("width",) if key in given and key in known}
    knob, _ = SIZES.get(name, ("", 1))
    return Component(kind=name, params={**given, **({knob: size} if knob and size else {})})


def _grow(name: str, budget: int, measured: Callable[[str, int | None], Point]) -> None:
    """Double the size until the budget is passed; then look between the last two."""
    knob, size = SIZES.get(name, ("", 1))
    if not knob:
        measured(name, None)
        return
    fits: Point | None = None
    point = measured(name, size)
    while point.tokens <= budget:
        grown = fits is None or point.tokens > fits.tokens
        fits = point
        if not grown:
            return  # larger costs no more: it has nothing left to search
        size *= 2
        point = measured(name, size)
    low, high = (fits.size or 0) if fits else 0, size
    costs = (fits.tokens if fits else 0.0), point.tokens
    for _ in range(_BETWEEN):
        if fits is None or high - low < 2 or costs[0] >= _NEAR * budget:
            return
        share_of_way = (budget - costs[0]) / (costs[1] - costs[0])
        size = min(high - 1, max(low + 1, int(low + share_of_way * (high - low))))
        point = measured(name, size)
        if point.tokens <= budget:
            low, costs = size, (point.tokens, costs[1])
        else:
            high, costs = size, (costs[0], point.tokens)


def _measure(
    components: Components,
    config: Config,
    strategy: SearchStrategy,
    name: str,
    size: int | None,
    problems: Sequence[Problem],
    folder: Path,
) -> None:
    label = name if size is None else f"{name}, {SIZES[name][0]} {size}"
    before = components.resources.budget.money
    usage, seconds, solved = Usage(), 0.0, 0
    with searched(
        components, strategy, problems, len(problems), folder / "trees.jsonl", config, 0, label
    ) as trees:
        paid = components.resources.budget.money - before if config.prices and not trees.found else None
        for tree, problem in zip(trees, problems, strict=True):
            usage += tree.usage
            seconds += tree.seconds
            solved += is_solved(tree, problem)
    count = len(problems)
    low, high = wilson(solved, count)
    point = Point(
        name,
        size,
        solved / count,
        low,
        high,
        solved,
        count,
        usage.completion_tokens / count,
        usage.prompt_tokens / count,
        usage.requests / count,
        seconds / count,
        None if paid is None else paid / count,
    )
    write_atomic(folder / "point.json", json.dumps(asdict(point), indent=2) + "\n")


def _at_budget(name: str, points: Sequence[Point], budget: int) -> Point | None:
    """The largest size within the budget."""
    within = [point for point in points if point.strategy == name and point.tokens <= budget]
    return max(within, key=lambda point: point.tokens, default=None)


def _print(points: Sequence[Point], best: Sequence[Point | None], budget: int) -> None:
    title = f"Accuracy and sampled tokens a problem; * the largest size within {budget:,}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    priced = any(point.cost is not None for point in points)
    for name in ("strategy", "accuracy", "tokens", "calls", "seconds", *(["cost"] if priced else [])):
        table.add_column(name, justify="left" if name == "strategy" else "right", no_wrap=True)
    names = [it.strategy for it in points]
    for point in sorted(points, key=lambda it: (names.index(it.strategy), it.size or 0)):
        size = "" if point.size is None else f", {SIZES[point.strategy][0]} {point.size}"
        table.add_row(
            ("* " if point in best else "  ") + point.strategy + size,
            share(point.solved, point.problems),
            f"{point.tokens:.0f}",
            f"{point.calls:.1f}",
            f"{point.seconds:.2f}",
            *(["–" if point.cost is None else f"{point.cost:.4g}"] if priced else []),
        )
    output.print(table)
