"""Stage: does a model of a run drift? A small search on the same problems with every model, and a rule on its outcome
that reads no reference answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from stepagent.assembly.session import Session
from stepagent.config.settings import WatchSettings
from stepagent.console import table
from stepagent.errors import BackendError
from stepagent.files.jsonl import write_json
from stepagent.files.problems import ProblemFile
from stepagent.judges.measuring import JudgeCounts
from stepagent.preferences import tree_preferences
from stepagent.stages.search import searched, tree_counts
from stepagent.tree import StepTree
from stepagent.types import ModelVersion


@dataclass(frozen=True, slots=True)
class Watched:
    """A model's searching and judging in figures; shares are in [0, 1], None where there was nothing to count."""

    ended: float
    pairs_per_problem: float
    steps_per_solution: float | None
    tokens_per_step: float | None
    positions_agree: float | None


def watch(session: Session, model: ModelVersion, name: str = "", first: str = "M_1") -> list[str]:
    """Return the ways in which `model` has drifted from the model whose watch went by the name of `first`, by a search
    on the watched problems: the last ones of the shuffled pool, as rounds take theirs from its front. `name` is its own
    (the model's, if not given)."""
    name = name or model.name
    config, folder = session.config, session.folder / "watch"
    if not config.watch.problems:
        return []
    source = ProblemFile.of(config.problems, session.folder)
    problems, trees = folder / "problems.jsonl", folder / f"{name}.jsonl"
    session.run_folder.stage(
        session.stage_name("problems", folder),
        inputs={"problems": source.path},
        outputs={"problems": problems},
        identity=[config.seed, config.watch.problems],
        work=lambda: source.draw(config.seed, slice(-config.watch.problems, None), problems),
    )
    session.run_folder.stage(
        session.stage_name(f"search with {name}", folder),
        inputs={"model": Path(model.path), "problems": problems},
        outputs={"trees": trees, "figures": trees.with_suffix(".json")},
        identity=session.bound.identity(),
        work=lambda: _search(session, model, ProblemFile(problems), trees=trees),
    )
    before, newest = (read_watched(folder / f"{place}.json") for place in (first, name))
    return drift(before, newest, config.watch)


def _search(session: Session, model: ModelVersion, problems: ProblemFile, *, trees: Path) -> None:
    """Search the watched problems with one model: the file `trees` holds the trees, the one beside it the figures."""
    label = f"watched problems, {trees.stem}"
    with searched(session, session.parts(model).strategy, problems, trees=trees, label=label) as file:
        failed = sum(tree.status == "failed" for tree in file)
        if 2 * failed > len(problems):
            raise BackendError(
                f"{failed} of {len(problems)} watched problems failed; the same command searches them again"
            )
        figures = asdict(watched(file))
    write_json(trees.with_suffix(".json"), figures)
    rows = {key.replace("_", " "): value for key, value in figures.items() if value is not None}
    table(f"Watched: {trees.stem}", rows, ("ended", "pairs per problem", "positions agree"))


def watched(trees: Iterable[StepTree]) -> Watched:
    """Return the figures of the trees that did not fail: a request that failed says nothing of the model."""
    count = ended = pairs = steps = tokens = 0
    judging = JudgeCounts()
    for tree in trees:
        if tree.status == "failed":
            continue
        count += 1
        pairs += sum(1 for _ in tree_preferences(tree))
        judging += tree_counts(tree)
        if tree.status == "ended":
            ended += 1
            steps += len(tree.path)
            tokens += sum(len(step.token_ids or ()) for step in tree.solution())
    return Watched(
        ended=ended / count if count else 0.0,
        pairs_per_problem=pairs / count if count else 0.0,
        steps_per_solution=steps / ended if ended else None,
        tokens_per_step=tokens / steps if tokens else None,
        positions_agree=judging.agreed / judging.pairs if judging.pairs else None,
    )


def read_watched(path: Path) -> Watched:
    """Return the figures of a watched search."""
    return TypeAdapter(Watched).validate_json(path.read_text(encoding="utf-8"))


def drift(first: Watched, newest: Watched, settings: WatchSettings) -> list[str]:
    """Return the ways in which `newest` has drifted from `first`, each with both figures and the limit; see
    WatchSettings."""
    ways: list[str] = []
    for name, start, end, limit in (
        ("judged pairs whose positions agree", first.positions_agree, newest.positions_agree, settings.agreement_fall),
        ("solutions that end", first.ended, newest.ended, settings.ended_fall),
    ):
        if start is not None and end is not None and start - end > limit:
            ways.append(f"{name} {start:.0%} -> {end:.0%} (may fall by {limit:.0%})")
    if newest.pairs_per_problem < settings.pairs_left * first.pairs_per_problem:
        ways.append(
            f"pairs per problem {first.pairs_per_problem:.2f} -> {newest.pairs_per_problem:.2f} "
            f"(at least {settings.pairs_left:.0%} are to stay)"
        )
    for name, start, end in (
        ("steps per solution", first.steps_per_solution, newest.steps_per_solution),
        ("tokens per step", first.tokens_per_step, newest.tokens_per_step),
    ):
        if start and end and max(start / end, end / start) > settings.change:
            ways.append(f"{name} {start:.1f} -> {end:.1f} (may change by a factor of {settings.change:g})")
    return ways
