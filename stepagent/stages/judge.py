"""Stage: verdicts on candidate steps from a file, and on the trees of a finished search, judged again."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stepagent.assembly.session import Session
from stepagent.console import table
from stepagent.errors import ConfigError, DataError
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.files.resumable import ResumableFile, fill
from stepagent.files.rows import CandidatesRow, load_candidates, plain_step
from stepagent.interfaces import Judge
from stepagent.seeds import derive_seed
from stepagent.stages.measure_judge import raise_failures
from stepagent.stages.search import SearchCounts, exported_pairs, tree_counts
from stepagent.tree import Level, StepTree
from stepagent.types import ModelVersion, Problem, Usage, Verdict


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """The verdict for one row of candidates; indices refer to the candidates as they stand there."""

    id: str
    verdict: Verdict


def judge(session: Session, model: ModelVersion, data: Path, *, out: Path) -> bool:
    """Judge the candidates of `data` into `out`/verdicts.jsonl; continues the rows that it holds. Returns whether
    there was anything to do. Raises DataError."""
    candidates = load_candidates(data)
    verdicts = out / "verdicts.jsonl"
    return session.run_folder.stage(
        session.stage_name("judge", out),
        inputs={"model": Path(model.path), "data": data},
        outputs={"verdicts": verdicts},
        identity=session.bound.judging(),
        work=lambda: _judge_candidates(session, model, candidates, path=verdicts),
    )


def _judge_candidates(
    session: Session, model: ModelVersion, candidates: dict[str, CandidatesRow], *, path: Path
) -> None:
    config, steps_judge = session.config, session.parts(model).judge

    async def verdict_on(item: tuple[str, CandidatesRow]) -> VerdictRow:
        name, row = item
        verdict = await steps_judge.judge(
            Problem(name, row.question),
            [plain_step(text) for text in row.prefix],
            [plain_step(text) for text in row.candidates],
            derive_seed(config.seed, "judge file", name),
        )
        return VerdictRow(name, verdict)

    with ResumableFile(path, VerdictRow, key=lambda row: row.id, failed=lambda row: row.verdict.failed) as file:
        items = ((name, (name, row)) for name, row in candidates.items())
        work = fill(file, items, verdict_on, label="judge", total=len(candidates), concurrency=config.concurrency)
        session.run(work)
        statuses = Counter(row.verdict.status for row in file)
        errors = [row.verdict.error for row in file if row.verdict.failed]
    table("Verdicts", {"rows": statuses.total(), **{str(status): count for status, count in statuses.items()}})
    raise_failures(errors, len(candidates))


def judge_again(session: Session, model: ModelVersion, trees: Path, *, out: Path) -> bool:
    """Judge every level of `trees` anew, into `out`/trees.jsonl and preferences.jsonl. No step is sampled: the path
    of each tree stays, and the siblings are those of the search. Continues the trees that `out` holds. Returns
    whether there was anything to do. Raises DataError or ConfigError."""
    if trees.resolve() == (out / "trees.jsonl").resolve():
        raise ConfigError(f"--out {out}: this folder holds the trees that are to be judged; choose another one")
    judged, preferences = out / "trees.jsonl", out / "preferences.jsonl"
    return session.run_folder.stage(
        session.stage_name("judge again", out),
        inputs={"model": Path(model.path), "trees": trees},
        outputs={"trees": judged, "preferences": preferences},
        identity=[*session.bound.judging(), *exported_pairs(session)],
        work=lambda: _judge_trees(session, model, trees, path=judged, preferences=preferences),
    )


def _judge_trees(session: Session, model: ModelVersion, trees: Path, *, path: Path, preferences: Path) -> None:
    earlier = read_rows(trees, StepTree)
    if not earlier:
        raise DataError(f"{trees}: no trees in the file")
    config, steps_judge = session.config, session.parts(model).judge

    async def judged(tree: StepTree) -> StepTree:
        return await _judged(steps_judge, tree, config.seed, kind=config.judge.kind)

    with ResumableFile(path, StepTree, key=lambda tree: tree.problem.id, failed=_judge_failed) as file:
        items = [(tree.problem.id, tree) for tree in earlier]
        label, concurrency = "judge again", config.concurrency
        session.run(fill(file, items, judged, label=label, total=len(items), concurrency=concurrency))
        counts = SearchCounts(session.config.optimize.pairs)
        write_rows(preferences, counts.watch(file))
        verdicts = [level.verdict for tree in file for level in tree.levels if level.verdict is not None]
        errors = [verdict.error for verdict in verdicts if verdict.failed]
    table(f"Judged again: {trees}", counts.figures(sum(tree.seconds for tree in earlier)))
    raise_failures(errors, len(verdicts))


def _judge_failed(tree: StepTree) -> bool:
    return any(level.verdict is not None and level.verdict.failed for level in tree.levels)


async def _judged(judge: Judge, tree: StepTree, seed: int, *, kind: str) -> StepTree:
    levels: list[Level] = []
    usage = Usage()
    for number, level in enumerate(tree.levels):
        verdict: Verdict | None = None
        if len(level.judged) > 1:
            verdict = await judge.judge(
                tree.problem.without_answer(),
                tree.prefix(level.parent),
                [tree.step(node) for node in level.judged],
                derive_seed(seed, tree.problem.id, number, "judge again"),
            )
            usage += verdict.usage
        levels.append(replace(level, verdict=verdict))
        if verdict is not None and verdict.failed:  # the tree is judged again, so that its other levels can wait
            levels += [replace(later, verdict=None) for later in tree.levels[number + 1 :]]
            break
    judged = replace(tree, levels=levels, judge=kind, usage=usage)
    judged.judging = asdict(tree_counts(judged))
    return judged
