"""Stage: another judge on the trees of a finished search, and two judges compared on them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

from stepagent.assembly.components import Components
from stepagent.config.settings import Config
from stepagent.console import output, table
from stepagent.errors import DataError
from stepagent.files.jsonl import read_rows, write_atomic, write_rows
from stepagent.files.resumable import append_all, resume
from stepagent.interfaces import Judge
from stepagent.seeds import derive_seed
from stepagent.stages.search import SearchCounts, tree_counts
from stepagent.tree import Level, StepTree
from stepagent.types import Usage, Verdict


def rejudge_stage(components: Components, config: Config, trees: Path, out: Path) -> None:
    """Judge every level of `trees` anew, into `out`/trees.jsonl and `out`/preferences.jsonl. No step is
    sampled: the path of each tree stays, and the siblings are those the search saw. Continues what `out`
    holds."""
    before = read_rows(trees, StepTree)
    if not before:
        raise DataError(f"{trees}: no trees in the file")
    path = out / "trees.jsonl"
    done = resume(path, StepTree, lambda tree: tree.problem.id, _failed)
    trees_by_id = {tree.problem.id: tree for tree in before}

    async def again(_: str, tree: StepTree) -> StepTree:
        return await _judged(components.judge, config, tree)

    asked = append_all(path, "judge again", config.concurrency, trees_by_id, done, again)
    components.resources.run(asked)
    after = [done[name] for name in trees_by_id]
    counts = SearchCounts()
    write_rows(out / "preferences.jsonl", counts.watch(after))
    table(f"Judged again: {trees}", counts.figures(sum(tree.seconds for tree in after)))


def _failed(tree: StepTree) -> bool:
    return any(level.verdict is not None and level.verdict.status == "error" for level in tree.levels)


async def _judged(judge: Judge, config: Config, tree: StepTree) -> StepTree:
    levels: list[Level] = []
    usage = Usage()
    for place, level in enumerate(tree.levels):
        verdict: Verdict | None = None
        if len(level.judged) > 1:
            steps = [tree.step(node) for node in level.judged]
            seed = derive_seed(config.seed, tree.problem.id, place, "judge again")
            prefix = tree.prefix(level.parent)
            verdict = await judge.judge(tree.problem.without_answer(), prefix, steps, seed)
            usage += verdict.usage
        levels.append(replace(level, verdict=verdict))
    new = replace(tree, levels=levels, judge=config.judge.kind, usage=usage)
    new.judging = asdict(tree_counts(new))
    return new


@dataclass(frozen=True, slots=True)
class Difference:
    """A level at which two judges do not choose the same best or worst step."""

    problem_id: str
    level: int
    candidates: tuple[str, ...]
    statuses: tuple[str, str]
    best: tuple[int | None, int | None]
    worst: tuple[int | None, int | None]


def compare_stage(
    names: tuple[str, str], one: Sequence[StepTree], other: Sequence[StepTree], out: Path
) -> None:
    """Two judges on the same levels: agreement, Cohen's kappa over all sibling pairs (each judge says first,
    second or neither), cost. Writes comparison.json and differences.jsonl."""
    both = list(_levels(one, other))
    said = Counter(
        (a, b)
        for _, _, v, w, texts in both
        for a, b in zip(_orders(v, len(texts)), _orders(w, len(texts)), strict=True)
    )
    total = sum(said.values())
    agreed = sum(count for (a, b), count in said.items() if a == b) / total if total else math.nan
    chance = sum(
        sum(n for (a, _), n in said.items() if a == kind) * sum(n for (_, b), n in said.items() if b == kind)
        for kind in ("first", "second", "neither")
    ) / max(1, total * total)
    ok = [(v, w) for _, _, v, w, _ in both if v.status == "ok" and w.status == "ok"]
    usages = [sum((tree.usage for tree in trees), Usage()) for trees in (one, other)]
    figures: dict[str, object] = {
        "levels judged by both": len(both),
        "levels with a pair of both": len(ok),
        "same best": sum(v.best == w.best for v, w in ok) / max(1, len(ok)),
        "same worst": sum(v.worst == w.worst for v, w in ok) / max(1, len(ok)),
        "opposite (one's best is the other's worst)": sum(v.best == w.worst for v, w in ok) / max(1, len(ok)),
        "sibling pairs": total,
        "agreement": agreed,
        "Cohen's kappa": (agreed - chance) / (1 - chance) if chance < 1 else math.nan,
        **{f"requests, {name}": usage.requests for name, usage in zip(names, usages, strict=True)},
        **{f"sampled tokens, {name}": u.completion_tokens for name, u in zip(names, usages, strict=True)},
    }
    differences = [
        Difference(tree.problem.id, place, texts, (v.status, w.status), (v.best, w.best), (v.worst, w.worst))
        for tree, place, v, w, texts in both
        if (v.best, v.worst) != (w.best, w.worst)
    ]
    write_rows(out / "differences.jsonl", differences)
    write_atomic(out / "comparison.json", json.dumps(figures, indent=2) + "\n")
    table(f"{names[0]} against {names[1]}", figures)
    output.print(f"{len(differences)} levels differ: {out / 'differences.jsonl'}", soft_wrap=True)


def _levels(
    one: Sequence[StepTree], other: Sequence[StepTree]
) -> Iterator[tuple[StepTree, int, Verdict, Verdict, tuple[str, ...]]]:
    for tree, same in zip(one, other, strict=True):
        for place, (a, b) in enumerate(zip(tree.levels, same.levels, strict=True)):
            if a.verdict is not None and b.verdict is not None:
                texts = tuple(tree.step(node).content for node in a.judged)
                yield tree, place, a.verdict, b.verdict, texts


def _orders(verdict: Verdict, count: int) -> list[str]:
    """What a verdict says of each pair of candidates, by its scores."""
    scores = verdict.scores or (math.nan,) * count
    return [
        "first" if a > b + 1e-9 else "second" if b > a + 1e-9 else "neither"
        for a, b in combinations(scores, 2)
    ]
