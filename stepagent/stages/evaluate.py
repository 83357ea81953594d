"""Stage: how well a model solves, searches and judges, on held-out data. Reads references, trains nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from pydantic import TypeAdapter

from stepagent.answers import is_correct
from stepagent.assembly.binding import import_object
from stepagent.assembly.components import Components
from stepagent.config.settings import KINDS, Config, EvaluateSettings
from stepagent.console import bar, table
from stepagent.files.jsonl import write_atomic
from stepagent.files.problems import load_held_out
from stepagent.files.rows import EftRow, load_pairs, plain_step
from stepagent.generators.boundaries import BoundaryKind, content, split
from stepagent.generators.sample import SampleGenerator
from stepagent.interfaces import Generator, Judge, SearchStrategy, Solver
from stepagent.judges.measuring import score_pair
from stepagent.search.greedy import GreedySearch
from stepagent.seeds import derive_seed
from stepagent.stages.search import searched
from stepagent.tree import StepTree, joined_text
from stepagent.types import Problem, StepPreference

EVALUATION_FILES = {"metrics": "metrics.json", "trees": "trees.jsonl", "greedy": "greedy.jsonl"}
"""What an evaluation writes into its folder."""


def evaluation_inputs(model: str, source: Path, settings: EvaluateSettings) -> dict[str, Path]:
    """What an evaluation reads: the inputs of its stage."""
    return {"model": Path(model), "problems": source, **({"pairs": settings.pairs} if settings.pairs else {})}


def evaluation_outputs(folder: Path) -> dict[str, Path]:
    """What an evaluation writes into `folder`: the outputs of its stage."""
    return {name: folder / file for name, file in EVALUATION_FILES.items()}


CheckStep = Callable[[str, Sequence[str], str], bool]
"""(question, texts of the steps before, text of the step) -> is the step right?"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model's figures; shares are in [0, 1], None where the data to measure it was not given.

    `judge_accuracy`: right in both seats, on labelled pairs. `judge_consistency`: both seats agree.
    `valid_format`: greedy solutions that end and whose text is steps, none empty, marks counted from 1.
    `own_*`: the same on pairs the model itself proposed during the held-out search. `failed_requests`:
    problems whose greedy request failed for good; they count as unsolved.
    """

    name: str
    greedy_accuracy: float
    valid_format: float | None = None
    search_accuracy: float | None = None
    judge_accuracy: float | None = None
    judge_consistency: float | None = None
    own_judge_accuracy: float | None = None
    own_judge_consistency: float | None = None
    own_pairs: int = 0
    steps_per_solution: float | None = None
    tokens_per_step: float | None = None
    failed_requests: int = 0
    solved: tuple[bool, ...] = ()


def evaluate(
    components: Components,
    config: Config,
    settings: EvaluateSettings,
    source: Path,
    name: str,
    folder: Path,
) -> Evaluation:
    """Measure one model on the problems of the file `source`; the held-out search's trees go to `folder`."""
    problems = load_held_out(source)
    pairs = load_pairs(settings.pairs) if settings.pairs else []
    check = load_check(settings)
    solver: Generator = components.generator
    if not isinstance(solver, Solver):  # one that writes steps only: its prompt, without its steps
        solver = SampleGenerator(components.backend, str(config.generator.arguments().get("prompt", "solve")))
    strategy = GreedySearch(solver, settings.max_tokens)
    greedy = _trees(
        components,
        strategy,
        problems,
        folder / EVALUATION_FILES["greedy"],
        config,
        f"greedy solutions, {name}",
    )
    drawn = problems[: settings.search_problems]
    trees = []
    if drawn:
        label = f"judged search, {name}"
        trees = _trees(
            components, components.strategy, drawn, folder / EVALUATION_FILES["trees"], config, label
        )
    judged = components.resources.run(_judge_pairs(components.judge, config, pairs, name)) if pairs else []
    own = list(_own_pairs(trees, check)) if check else []
    solved = [is_solved(tree, problem) for tree, problem in zip(greedy, problems, strict=True)]
    paths = [tree.solution() for tree in trees if tree.status == "ended"]
    steps = [step for path in paths for step in path]
    boundary = boundary_of(config)
    return Evaluation(
        name=name,
        valid_format=_share([_is_valid(tree, boundary) for tree in greedy]) if boundary else None,
        greedy_accuracy=_share(solved) or 0.0,
        search_accuracy=_share(
            [is_solved(tree, problem) for tree, problem in zip(trees, drawn, strict=True)]
        ),
        judge_accuracy=_share([right for right, _ in judged]),
        judge_consistency=_share([same for _, same in judged if same is not None]),
        own_judge_accuracy=_share([right for right, _ in own]),
        own_judge_consistency=_share([same for _, same in own if same is not None]),
        own_pairs=len(own),
        steps_per_solution=len(steps) / len(paths) if paths else None,
        tokens_per_step=sum(len(step.token_ids or ()) for step in steps) / len(steps) if steps else None,
        failed_requests=sum(tree.status == "failed" for tree in greedy),
        solved=tuple(solved),
    )


def boundary_of(config: Config) -> BoundaryKind | None:
    """Where the config's generator ends a step; None for one's own generator."""
    if config.generator.kind != KINDS["generator"]:
        return None
    boundary: BoundaryKind = config.generator.arguments().get("boundary", "marker")
    return boundary


def pairs_right(
    rows: Iterable[StepPreference],
    answers: Mapping[str, str],
    check: CheckStep | None,
    boundary: BoundaryKind | None,
) -> float | None:
    """The share of preference pairs whose chosen step is right and whose rejected one is not, by `check` or,
    where both end the solution, by the reference answer. To be shown; nothing may act on it. None if no pair
    can be checked."""
    right = []
    for row in rows:
        if check:
            good, bad = (
                check(
                    row.question, row.prefix, content(boundary, row.depth, text) if boundary else text.strip()
                )
                for text in (row.chosen, row.rejected)
            )
        elif row.chosen_ends and row.rejected_ends and row.question in answers:
            before = "".join(row.prefix)
            good, bad = (
                is_correct(before + text, answers[row.question]) for text in (row.chosen, row.rejected)
            )
        else:
            continue
        right.append(good and not bad)
    return _share(right)


def load_check(settings: EvaluateSettings) -> CheckStep | None:
    """The function that `evaluate.check_step` names as module:function. Raises ConfigError."""
    if settings.check_step is None:
        return None
    check: CheckStep = import_object("evaluate.check_step", settings.check_step)
    return check


def evaluate_stage(
    components: Components,
    config: Config,
    settings: EvaluateSettings,
    source: Path,
    name: str,
    folder: Path,
) -> Evaluation:
    """Measure one model, write `folder`/metrics.json and print the figures."""
    done = evaluate(components, config, settings, source, name, folder)
    write_atomic(
        folder / EVALUATION_FILES["metrics"],
        TypeAdapter(Evaluation).dump_json(done, indent=2).decode() + "\n",
    )
    figures = asdict(done)
    del figures["solved"], figures["name"]
    table(f"Evaluation of {name}", {key: value for key, value in figures.items() if value is not None})
    return done


def is_solved(tree: StepTree, problem: Problem) -> bool:
    """Whether a tree's solution ends, at the problem's reference answer."""
    return tree.status == "ended" and is_correct(joined_text(tree.solution()), problem.answer or "")


def _is_valid(tree: StepTree, boundary: BoundaryKind) -> bool:
    return tree.status == "ended" and split(boundary, joined_text(tree.solution())) is not None


def _trees(
    components: Components,
    strategy: SearchStrategy,
    problems: Sequence[Problem],
    path: Path,
    config: Config,
    label: str,
) -> list[StepTree]:
    with searched(components, strategy, problems, len(problems), path, config, 0, label) as found:
        return list(found)


def _share(outcomes: Sequence[bool]) -> float | None:
    return sum(outcomes) / len(outcomes) if outcomes else None


async def _judge_pairs(
    judge: Judge, config: Config, pairs: Sequence[EftRow], name: str
) -> list[tuple[bool, bool | None]]:
    """For every labelled pair: right in both seats, and the same in both seats."""
    limit = asyncio.Semaphore(config.concurrency)
    with bar(f"labelled pairs, {name}", len(pairs)) as progress:

        async def ask(index: int, pair: EftRow) -> tuple[bool, bool | None]:
            prefix = [plain_step(text) for text in pair.prefix]
            candidates = [plain_step(pair.first), plain_step(pair.second)]
            async with limit:
                verdict = await judge.judge(
                    Problem(str(index), pair.question),
                    prefix,
                    candidates,
                    derive_seed(config.seed, "labelled pair", index),
                )
            progress.advance()
            expected = {"first": 0, "second": 1}.get(pair.winner or "")
            return score_pair(verdict, 0, 1, expected)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(index, pair)) for index, pair in enumerate(pairs)]
    return [task.result() for task in tasks]


def _own_pairs(trees: Sequence[StepTree], check: CheckStep) -> Iterator[tuple[bool, bool | None]]:
    """Every judged sibling pair of which exactly one step is right."""
    for tree in trees:
        for level in tree.levels:
            if level.verdict is None:
                continue
            before = [step.text for step in tree.prefix(level.parent)]
            right = [check(tree.problem.question, before, tree.step(node).content) for node in level.judged]
            for one, other in combinations(range(len(right)), 2):
                if right[one] != right[other]:
                    yield score_pair(level.verdict, one, other, one if right[one] else other)
