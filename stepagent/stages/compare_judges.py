"""Stage: two judges on the trees of a finished search."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from stepagent.assembly.session import Session
from stepagent.console import output, table
from stepagent.files.jsonl import read_rows, write_json, write_rows
from stepagent.stages.judge import judge_again
from stepagent.tree import StepTree
from stepagent.types import ModelVersion, Usage, Verdict


@dataclass(frozen=True, slots=True)
class Difference:
    """A level at which two judges do not choose the same best or worst step."""

    problem_id: str
    level: int
    candidates: tuple[str, ...]
    statuses: tuple[str, str]
    best: tuple[int | None, int | None]
    worst: tuple[int | None, int | None]


def compare_judges(session: Session, against: Session, model: ModelVersion, *, trees: Path, out: Path) -> None:
    """Judge `trees` again by the judges of two configs, into `out` and `out`/against, and compare their verdicts
    into comparison.json and differences.jsonl: agreement, Cohen's kappa over all sibling pairs (each judge says
    first, second or neither), cost."""
    folder = out / "against"
    judge_again(session, model, trees, out=out)
    judge_again(against, ModelVersion(model.index, against.config.model), trees, out=folder)
    names = (session.config.judge.kind, f"{against.config.judge.kind} (against)")
    one_side, other_side = (read_rows(place / "trees.jsonl", StepTree) for place in (out, folder))
    figures, differences = comparison(names, one_side, other_side)
    write_rows(out / "differences.jsonl", differences)
    write_json(out / "comparison.json", figures)
    table(f"{names[0]} against {names[1]}", figures)
    output.print(f"{len(differences)} levels differ: {out / 'differences.jsonl'}", soft_wrap=True)


def comparison(
    names: tuple[str, str], one_side: Sequence[StepTree], other_side: Sequence[StepTree]
) -> tuple[dict[str, object], list[Difference]]:
    """Return the figures of two judges on the same levels, and the levels where they chose differently."""
    levels = list(_levels(one_side, other_side))
    orders = Counter(
        (a, b)
        for _, _, v, w, texts in levels
        for a, b in zip(_orders(v, len(texts)), _orders(w, len(texts)), strict=True)
    )
    total = sum(orders.values())
    agreement = sum(count for (a, b), count in orders.items() if a == b) / total if total else math.nan
    chance = sum(
        sum(n for (a, _), n in orders.items() if a == kind) * sum(n for (_, b), n in orders.items() if b == kind)
        for kind in ("first", "second", "neither")
    ) / max(1, total * total)
    ok = [(v, w) for _, _, v, w, _ in levels if v.status == "ok" and w.status == "ok"]
    usages = [sum((tree.usage for tree in trees), Usage()) for trees in (one_side, other_side)]
    figures: dict[str, object] = {
        "levels judged by both": len(levels),
        "levels with a pair of both": len(ok),
        "same best": sum(v.best == w.best for v, w in ok) / max(1, len(ok)),
        "same worst": sum(v.worst == w.worst for v, w in ok) / max(1, len(ok)),
        "opposite (one's best is the other's worst)": sum(v.best == w.worst for v, w in ok) / max(1, len(ok)),
        "sibling pairs": total,
        "agreement": agreement,
        "Cohen's kappa": (agreement - chance) / (1 - chance) if chance < 1 else math.nan,
        **{f"requests, {name}": usage.requests for name, usage in zip(names, usages, strict=True)},
        **{f"sampled tokens, {name}": u.completion_tokens for name, u in zip(names, usages, strict=True)},
    }
    differences = [
        Difference(
            problem_id=tree.problem.id,
            level=number,
            candidates=texts,
            statuses=(v.status, w.status),
            best=(v.best, w.best),
            worst=(v.worst, w.worst),
        )
        for tree, number, v, w, texts in levels
        if (v.best, v.worst) != (w.best, w.worst)
    ]
    return figures, differences


def _levels(
    one_side: Sequence[StepTree], other_side: Sequence[StepTree]
) -> Iterator[tuple[StepTree, int, Verdict, Verdict, tuple[str, ...]]]:
    for tree, twin in zip(one_side, other_side, strict=True):
        for number, (a, b) in enumerate(zip(tree.levels, twin.levels, strict=True)):
            if a.verdict is not None and b.verdict is not None:
                texts = tuple(tree.step(node).content for node in a.judged)
                yield tree, number, a.verdict, b.verdict, texts


def _orders(verdict: Verdict, count: int) -> list[str]:
    """Return the order of each pair of candidates, by a verdict's scores."""
    scores = verdict.scores or (math.nan,) * count
    return ["first" if a > b + 1e-9 else "second" if b > a + 1e-9 else "neither" for a, b in combinations(scores, 2)]
