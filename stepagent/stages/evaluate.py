"""Stage: how well a model solves, searches and judges, on held-out data. Reads references, trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

from pydantic import TypeAdapter

from stepagent.assembly.components import BoundSearch
from stepagent.assembly.factories import import_object
from stepagent.assembly.session import Session
from stepagent.config.settings import EvaluateSettings
from stepagent.console import bar, table, warn
from stepagent.errors import ConfigError
from stepagent.files.jsonl import write_json
from stepagent.files.problems import ProblemFile
from stepagent.files.rows import load_labelled_pairs
from stepagent.generators.boundaries import BoundaryKind, boundary_kind, content, split
from stepagent.generators.sample import SampleGenerator
from stepagent.graders.marking import Mark, mark
from stepagent.interfaces import Generator, Grader, SearchStrategy, Solver
from stepagent.judges.measuring import score_pair
from stepagent.stages.measure_judge import JudgedItem, judge_items
from stepagent.stages.search import searched
from stepagent.strategies.greedy import GreedySearch
from stepagent.tree import StepTree, joined_text
from stepagent.types import ModelVersion, Problem, StepPreference

CheckStep = Callable[[str, Sequence[str], str], bool]
"""(question, texts of the steps before, text of the step) -> is the step right?"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model's figures; shares are in [0, 1], None where the data to measure it was not given.

    `judge_accuracy`: right in both positions, on labelled pairs. `judge_consistency`: both positions agree.
    `valid_format`: greedy solutions that end and whose text is steps, none empty, marks counted from 1.
    `own_*`: the same on pairs the model itself proposed during the held-out search. `failed_requests`:
    problems whose greedy request failed for good; they count as unsolved. `failed_grades`: solutions on which the
    grader failed, the first time with `grade_error`; they count nowhere, and are None in `solved`.
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
    failed_grades: int = 0
    grade_error: str = ""
    solved: tuple[bool | None, ...] = ()


def evaluate(session: Session, model: ModelVersion, out: Path, *, settings: EvaluateSettings | None = None) -> bool:
    """Measure `model` on held-out data into `out`/metrics.json; `settings` stand in for the config's. Continues what
    `out` holds. Returns whether there was anything to do. Raises ConfigError or DataError."""
    settings = settings or held_out_settings(session)
    problems = ProblemFile.of(settings.problems, session.folder)
    held_out = problems.held_out(session.config.grader.kind)
    load_check(settings)
    inputs = {"model": Path(model.path), "problems": problems.path}
    if settings.pairs:
        load_labelled_pairs(settings.pairs)
        inputs["pairs"] = settings.pairs
    bound = session.bound
    return session.run_folder.stage(
        session.stage_name("evaluate", out),
        inputs=inputs,
        outputs={"metrics": out / "metrics.json", "trees": out / "trees.jsonl", "greedy": out / "greedy.jsonl"},
        identity=[
            bound.identity() if settings.search_problems else bound.greedy(),
            settings.model_dump(mode="json", exclude={"problems": {"path"}, "pairs": True}),  # they are inputs
            *bound.grading(),
        ],
        work=lambda: _write(measure_model(session, model, held_out, out=out, settings=settings), out),
    )


def held_out_settings(session: Session) -> EvaluateSettings:
    """Return the config's held-out data. Raises ConfigError if it names none."""
    if session.config.evaluate is None:
        raise ConfigError("no 'evaluate' section in the config; it names held-out problems and pairs")
    return session.config.evaluate


def read_evaluation(out: Path) -> Evaluation:
    """Return the figures that `evaluate` wrote."""
    return TypeAdapter(Evaluation).validate_json((out / "metrics.json").read_bytes())


def _write(evaluation: Evaluation, out: Path) -> None:
    write_json(out / "metrics.json", evaluation)
    figures = asdict(evaluation)
    del figures["solved"], figures["name"], figures["grade_error"]
    rows = {key.replace("_", " "): value for key, value in figures.items() if value is not None}
    table(f"Evaluation of {evaluation.name}", rows, ("greedy accuracy", "search accuracy", "judge accuracy"))


def measure_model(
    session: Session, model: ModelVersion, problems: Sequence[Problem], *, out: Path, settings: EvaluateSettings
) -> Evaluation:
    """Return the figures of one model on held-out problems; its trees and judged pairs go to `out`."""
    parts = session.parts(model)
    solver: Generator = parts.generator
    if not isinstance(solver, Solver):  # one that writes steps only: its prompt, without its steps
        solver = SampleGenerator(parts.backend, session.bound.generator.prompt("solve"))
    check = load_check(settings)

    def trees_of(strategy: SearchStrategy, items: Sequence[Problem], file: str, *, work: str) -> list[StepTree]:
        label = f"{work}, {model.name}"
        with searched(session, strategy, items, trees=out / file, label=label) as trees:
            return list(trees)

    greedy = trees_of(GreedySearch(solver, settings.max_tokens), problems, "greedy.jsonl", work="greedy solutions")
    sample = problems[: settings.search_problems]
    trees = trees_of(parts.strategy, sample, "trees.jsonl", work="judged search") if sample else []
    judged: list[JudgedItem] = []
    if settings.pairs:
        pairs = load_labelled_pairs(settings.pairs)
        label = f"labelled pairs, {model.name}"
        judged = judge_items(session, parts.judge, pairs, path=out / "pairs.jsonl", label=label)
    own_pairs = list(_own_pairs(trees, check)) if check else []
    marks = _marks(session.grader, greedy, problems, label=f"grading, {model.name}")
    search_marks = _marks(session.grader, trees, sample, label=f"grading searches, {model.name}")
    failures = [outcome.error for outcome in (*marks, *search_marks) if outcome.right is None]
    graded_of([*marks, *search_marks])
    paths = [tree.solution() for tree in trees if tree.status == "ended"]
    steps = [step for path in paths for step in path]
    boundary = boundary_of(session.bound)
    return Evaluation(
        name=model.name,
        valid_format=_share([_is_valid(tree, boundary) for tree in greedy]) if boundary else None,
        greedy_accuracy=_right_share(marks) or 0.0,
        search_accuracy=_right_share(search_marks),
        judge_accuracy=_share([item.right for item in judged]),
        judge_consistency=_share([item.consistent for item in judged if item.consistent is not None]),
        own_judge_accuracy=_share([right for right, _ in own_pairs]),
        own_judge_consistency=_share([consistent for _, consistent in own_pairs if consistent is not None]),
        own_pairs=len(own_pairs),
        steps_per_solution=len(steps) / len(paths) if paths else None,
        tokens_per_step=sum(len(step.token_ids or ()) for step in steps) / len(steps) if steps else None,
        failed_requests=sum(tree.status == "failed" for tree in greedy),
        failed_grades=len(failures),
        grade_error=next(iter(failures), ""),
        solved=tuple(outcome.right for outcome in marks),
    )


def boundary_of(bound: BoundSearch) -> BoundaryKind | None:
    """Return the boundary at which the bound generator ends a step; None for one that does not say."""
    return boundary_kind(bound.generator.arguments.get("boundary"))


def pairs_right(
    rows: Iterable[StepPreference],
    answers: Mapping[str, str],
    check: CheckStep | None,
    *,
    boundary: BoundaryKind | None,
    grader: Grader,
) -> float | None:
    """Return the share of preference pairs whose chosen step is right and whose rejected one is not, by `check` or,
    where both end the solution, by the reference answer. A pair on which the grader fails does not count. To be shown;
    nothing may act on it. None if no pair can be checked."""
    right = []
    for row in rows:
        if check:
            chosen_right, rejected_right = (
                check(row.question, row.prefix, content(boundary, row.depth, text) if boundary else text.strip())
                for text in (row.chosen, row.rejected)
            )
        elif row.chosen_ends and row.rejected_ends and row.question in answers:
            prefix, problem = "".join(row.prefix), Problem(row.problem_id, row.question, answers[row.question])
            chosen, rejected = (mark(grader, problem, prefix + text).right for text in (row.chosen, row.rejected))
            if chosen is None or rejected is None:
                continue
            chosen_right, rejected_right = chosen, rejected
        else:
            continue
        right.append(chosen_right and not rejected_right)
    return _share(right)


def load_check(settings: EvaluateSettings) -> CheckStep | None:
    """Return the function that `evaluate.check_step` names as module:function. Raises ConfigError."""
    if settings.check_step is None:
        return None
    check: CheckStep = import_object("evaluate.check_step", settings.check_step)
    return check


def mark_tree(grader: Grader, tree: StepTree, problem: Problem) -> Mark:
    """Return the mark of a tree's solution; one that does not end is wrong."""
    if tree.status != "ended":
        return Mark(False)
    outcome = mark(grader, problem, joined_text(tree.solution()))
    return replace(outcome, error=f"problem '{problem.id}': {outcome.error}") if outcome.error else outcome


def _marks(grader: Grader, trees: Sequence[StepTree], problems: Sequence[Problem], *, label: str) -> list[Mark]:
    """Return the mark of each tree, as many at once as a grader takes."""
    with bar(label, len(trees)) as progress, ThreadPoolExecutor() as threads:

        def mark_one(tree: StepTree, problem: Problem) -> Mark:
            outcome = mark_tree(grader, tree, problem)
            progress.advance()
            return outcome

        return list(threads.map(mark_one, trees, problems))


def graded_of(marks: Sequence[Mark]) -> int:
    """Return the number of solutions that have a mark, and warn of those on which the grader failed."""
    failures = [outcome.error for outcome in marks if outcome.right is None]
    if failures:
        warn([f"{len(failures)} solutions have no mark and count nowhere; the first one, because {failures[0]}"])
    return len(marks) - len(failures)


def _right_share(marks: Sequence[Mark]) -> float | None:
    return _share([outcome.right for outcome in marks if outcome.right is not None])


def _is_valid(tree: StepTree, boundary: BoundaryKind) -> bool:
    return tree.status == "ended" and split(boundary, joined_text(tree.solution())) is not None


def _share(outcomes: Sequence[bool]) -> float | None:
    return sum(outcomes) / len(outcomes) if outcomes else None


def _own_pairs(trees: Sequence[StepTree], check: CheckStep) -> Iterator[tuple[bool, bool | None]]:
    """Every judged sibling pair of which exactly one step is right."""
    for tree in trees:
        for level in tree.levels:
            if level.verdict is None:
                continue
            prefix = [step.text for step in tree.prefix(level.parent)]
            right = [check(tree.problem.question, prefix, tree.step(node).content) for node in level.judged]
            for first, second in combinations(range(len(right)), 2):
                if right[first] != right[second]:
                    yield score_pair(level.verdict, first, second, expected=first if right[first] else second)
