"""Does a model of a run drift? A small search on the same problems with every model, and a rule on how it
went that reads no reference answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from stepagent.assembly.components import Components
from stepagent.assembly.identity import SEARCH_KEYS, identity
from stepagent.config.settings import Config, WatchSettings
from stepagent.console import table
from stepagent.errors import BackendError
from stepagent.files.jsonl import write_atomic
from stepagent.files.problems import draw_problems, load_problems, problem_file
from stepagent.files.runs import RunFolder
from stepagent.judges.measuring import JudgeCounts
from stepagent.preferences import tree_preferences
from stepagent.stages.deploy import Models
from stepagent.stages.search import searched, tree_counts
from stepagent.tree import StepTree


@dataclass(frozen=True, slots=True)
class Watched:
    """How a model searches and judges; shares are in [0, 1], None where there was nothing to count."""

    ended: float
    pairs_per_problem: float
    steps_per_solution: float | None
    tokens_per_step: float | None
    seats_agree: float | None


def watch(run: RunFolder, config: Config, asked: Models, model: str, index: int) -> list[str]:
    """In which ways M_`index` has drifted from M_1, by a search on the watched problems: the last of the
    shuffled pool, as rounds take theirs from its front."""
    if not config.watch.problems:
        return []
    source = problem_file(config.problems, run.path)
    folder, name = run.path / "watch", f"M_{index}"
    problems, out = folder / "problems.jsonl", folder / name
    run.stage(
        "watched problems",
        {"problems": source},
        {"problems": problems},
        [config.seed, config.watch.problems],
        lambda: draw_problems(source, config.seed, slice(-config.watch.problems, None), problems),
    )
    run.stage(
        f"watch {name}",
        {"model": Path(model), "problems": problems},
        {"trees": out.with_suffix(".jsonl"), "figures": out.with_suffix(".json")},
        identity(config, *SEARCH_KEYS),
        lambda: watch_stage(asked.components(model, index), config, problems, name, out),
    )
    return drift(read_watched(folder / "M_1"), read_watched(out), config.watch)


def watch_stage(components: Components, config: Config, problems: Path, name: str, out: Path) -> None:
    """Search the watched problems with one model: `out`.jsonl holds the trees, `out`.json the figures."""
    drawn = load_problems(problems)
    trees, label = out.with_suffix(".jsonl"), f"watched problems, {name}"
    with searched(components, components.strategy, drawn, len(drawn), trees, config, 0, label) as found:
        failed = sum(tree.status == "failed" for tree in found)
        if 2 * failed > len(drawn):
            raise BackendError(
                f"{failed} of {len(drawn)} watched problems failed; the same command searches them again"
            )
        figures = asdict(watched(found))
    write_atomic(out.with_suffix(".json"), json.dumps(figures, indent=2) + "\n")
    shown = {key.replace("_", " "): value for key, value in figures.items() if value is not None}
    table(f"Watched: {name}", shown)


def watched(trees: Iterable[StepTree]) -> Watched:
    """The figures of the trees that did not fail: a request that failed says nothing of the model."""
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
        seats_agree=judging.agreed / judging.pairs if judging.pairs else None,
    )


def read_watched(path: Path) -> Watched:
    """What `watch_stage` wrote."""
    return TypeAdapter(Watched).validate_json(path.with_suffix(".json").read_text(encoding="utf-8"))


def drift(first: Watched, now: Watched, settings: WatchSettings) -> list[str]:
    """In which ways `now` has drifted from `first`, each with both figures and the limit; see
    WatchSettings."""
    said: list[str] = []
    for what, before, after, most in (
        ("judged pairs whose seats agree", first.seats_agree, now.seats_agree, settings.agreement_fall),
        ("solutions that end", first.ended, now.ended, settings.ended_fall),
    ):
        if before is not None and after is not None and before - after > most:
            said.append(f"{what} {before:.0%} -> {after:.0%} (may fall by {most:.0%})")
    if now.pairs_per_problem < settings.pairs_left * first.pairs_per_problem:
        said.append(
            f"pairs per problem {first.pairs_per_problem:.2f} -> {now.pairs_per_problem:.2f} "
            f"(at least {settings.pairs_left:.0%} are to stay)"
        )
    for what, before, after in (
        ("steps per solution", first.steps_per_solution, now.steps_per_solution),
        ("tokens per step", first.tokens_per_step, now.tokens_per_step),
    ):
        if before and after and max(before / after, after / before) > settings.change:
            said.append(f"{what} {before:.1f} -> {after:.1f} (may change by a factor of {settings.change:g})")
    return said
