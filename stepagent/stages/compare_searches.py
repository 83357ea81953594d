"""Stage: strategies at equal cost. Each is run at growing sizes until a problem costs more than the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from stepagent.assembly.binding import Bound
from stepagent.assembly.components import bind_strategy
from stepagent.assembly.session import Session
from stepagent.config.settings import Config
from stepagent.console import console, output
from stepagent.errors import ConfigError
from stepagent.files.jsonl import write_json
from stepagent.files.problems import ProblemFile
from stepagent.graders.marking import Mark
from stepagent.interfaces import SearchStrategy
from stepagent.report.comparison import plot
from stepagent.report.page import finish_with_report
from stepagent.report.shares import share, wilson
from stepagent.seeds import derive_seed
from stepagent.stages.evaluate import graded_of, held_out_settings, mark_tree
from stepagent.stages.search import searched
from stepagent.types import ModelVersion, Problem, Usage

SIZES = {
    "greedy": ("", 1),
    "best_of_n": ("n", 1),
    "step": ("width", 2),
    "beam": ("beams", 1),
    "dvts": ("subtrees", 1),
    "best_first": ("expansions", 8),
    "mcts": ("simulations", 8),
}
"""The setting that makes a strategy larger, and its first value. Other kinds, own classes among them, are run once."""

_NEAR = 0.9  # of the budget: no need to come nearer
_BETWEEN = 2  # sizes tried between the largest that fits and the smallest that does not


@dataclass(frozen=True, slots=True)
class Point:
    """One strategy at one size (None if it has none). Tokens, calls, seconds and cost are means over the
    problems: `tokens` are sampled ones, the judge's included; `seconds` run from a problem's first request
    to its end, among all others; `cost` is None without a price table, or where a killed run had begun.
    `low` and `high` bound the accuracy (95 %). `problems` are those with a mark: the grader may fail on others."""

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


def compare_searches(
    session: Session, model: ModelVersion, strategies: str, *, budget: int | None, out: Path
) -> list[Point]:
    """Run every strategy of the comma-separated list up to `budget` sampled tokens a problem, on the held-out
    problems; writes compare.json and compare.png and prints the table. Continues what `out` holds. Raises
    ConfigError or DataError."""
    source = held_out_settings(session).problems
    if budget is None or budget < 1:
        raise ConfigError("--budget: say how many sampled tokens a problem may cost, such as --budget 4000")
    names = [name.strip() for name in strategies.split(",") if name.strip()]
    for name in names:
        _strategy(session.config, name, None)
    if len(set(names)) < len(names):
        raise ConfigError("--compare: a strategy is named twice")
    comparison = _Comparison(session, model, ProblemFile.of(source, session.folder), out=out)
    for name in names:
        _grow(name, budget, comparison.measure)
    points = comparison.points
    largest = [_at_budget(name, points, budget) for name in names]
    rows = [asdict(point) for point in points]
    at_budget = {point.strategy: asdict(point) for point in largest if point}
    report = {"budget": budget, "points": rows, "at_budget": at_budget}
    write_json(out / "compare.json", report)
    _print(points, largest, budget)
    if plot(rows, budget, out / "compare.png"):
        console.print(f"plot: {out / 'compare.png'}", highlight=False, soft_wrap=True)
    session.keep_config()
    finish_with_report(out)
    return points


class _Comparison:
    """The points measured so far, on the parts that all strategies share."""

    def __init__(self, session: Session, model: ModelVersion, file: ProblemFile, *, out: Path) -> None:
        self.points: list[Point] = []
        self._session = session
        self._model = model
        self._file = file
        self._problems = file.held_out(session.config.grader.kind)
        self._parts = session.parts(model)
        self._out = out

    def measure(self, name: str, size: int | None) -> Point:
        """Run one strategy at one size, unless its folder holds the point already."""
        folder = self._out / (name.replace(":", "-") if size is None else f"{name}-{size}")
        strategy = _strategy(self._session.config, name, size)
        seed = derive_seed(self._session.config.seed, "compare", name, size or 0)
        session = self._session.using(self._session.config.model_copy(update={"seed": seed}))
        search, bound = self._session.strategy(strategy, self._parts), self._session.bound
        session.run_folder.stage(
            session.stage_name("compare", folder),
            inputs={"model": Path(self._model.path), "problems": self._file.path},
            outputs={"trees": folder / "trees.jsonl", "point": folder / "point.json"},
            identity=[*bound.with_strategy(strategy, seed).identity(), *bound.grading()],
            work=lambda: _run(session, search, self._problems, folder=folder, name=name, size=size),
        )
        point = TypeAdapter(Point).validate_json((folder / "point.json").read_bytes())
        self.points.append(point)
        return point


def _strategy(config: Config, name: str, size: int | None) -> Bound:
    """Return a strategy with the config's settings for it, or with the config's width; of this size. Raises ConfigError
    for one that could not be made."""
    settings = config.search.arguments()
    if config.search.kind != name:
        defaults = bind_strategy(name, {}).arguments
        settings = {key: settings[key] for key in ("width",) if key in settings and key in defaults}
    knob, _ = SIZES.get(name, ("", 1))
    return bind_strategy(name, {**settings, **({knob: size} if knob and size else {})})


def _grow(name: str, budget: int, measure: Callable[[str, int | None], Point]) -> None:
    """Double the size until the budget is passed; then look between the last two."""
    knob, size = SIZES.get(name, ("", 1))
    if not knob:
        measure(name, None)
        return
    fits: Point | None = None
    point = measure(name, size)
    while point.tokens <= budget:
        grown = fits is None or point.tokens > fits.tokens
        fits = point
        if not grown:
            return  # larger costs no more: it has nothing left to search
        size *= 2
        point = measure(name, size)
    low, high = (fits.size or 0) if fits else 0, size
    costs = (fits.tokens if fits else 0.0), point.tokens
    for _ in range(_BETWEEN):
        if fits is None or high - low < 2 or costs[0] >= _NEAR * budget:
            return
        share_of_way = (budget - costs[0]) / (costs[1] - costs[0])
        size = min(high - 1, max(low + 1, int(low + share_of_way * (high - low))))
        point = measure(name, size)
        if point.tokens <= budget:
            low, costs = size, (point.tokens, costs[1])
        else:
            high, costs = size, (costs[0], point.tokens)


def _run(
    session: Session,
    strategy: SearchStrategy,
    problems: Sequence[Problem],
    *,
    folder: Path,
    name: str,
    size: int | None,
) -> None:
    label = name if size is None else f"{name}, {SIZES[name][0]} {size}"
    budget = session.resources.budget
    money = budget.money
    usage, seconds, marks = Usage(), 0.0, list[Mark]()
    with searched(session, strategy, problems, trees=folder / "trees.jsonl", label=label) as trees:
        cost = budget.money - money if session.config.prices and not trees.earlier else None
        for tree, problem in zip(trees, problems, strict=True):
            usage += tree.usage
            seconds += tree.seconds
            marks.append(mark_tree(session.grader, tree, problem))
    count, graded, solved = len(problems), graded_of(marks), sum(outcome.right is True for outcome in marks)
    low, high = wilson(solved, graded) if graded else (0.0, 1.0)
    point = Point(
        strategy=name,
        size=size,
        accuracy=solved / graded if graded else 0.0,
        low=low,
        high=high,
        solved=solved,
        problems=graded,
        tokens=usage.completion_tokens / count,
        prompt_tokens=usage.prompt_tokens / count,
        calls=usage.requests / count,
        seconds=seconds / count,
        cost=None if cost is None else cost / count,
    )
    write_json(folder / "point.json", point)


def _at_budget(name: str, points: Sequence[Point], budget: int) -> Point | None:
    """Return the largest size within the budget."""
    within = [point for point in points if point.strategy == name and point.tokens <= budget]
    return max(within, key=lambda point: point.tokens, default=None)


def _print(points: Sequence[Point], largest: Sequence[Point | None], budget: int) -> None:
    title = f"Accuracy and sampled tokens a problem; * the largest size within {budget:,}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    priced = any(point.cost is not None for point in points)
    for name in ("strategy", "accuracy", "tokens", "calls", "seconds", *(["cost"] if priced else [])):
        table.add_column(name, justify="left" if name == "strategy" else "right", no_wrap=True)
    names = [point.strategy for point in points]
    for point in sorted(points, key=lambda point: (names.index(point.strategy), point.size or 0)):
        size = "" if point.size is None else f", {SIZES[point.strategy][0]} {point.size}"
        table.add_row(
            ("* " if point in largest else "  ") + point.strategy + size,
            share(point.solved, point.problems),
            f"{point.tokens:.0f}",
            f"{point.calls:.1f}",
            f"{point.seconds:.2f}",
            *(["–" if point.cost is None else f"{point.cost:.4g}"] if priced else []),
        )
    output.print(table)
