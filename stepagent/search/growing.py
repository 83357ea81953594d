"""What all strategies share: a tree that grows level by level, and what its steps are worth."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Literal

from stepagent.backends.pool import asks
from stepagent.errors import BackendError, first_cause
from stepagent.interfaces import Generator, Judge
from stepagent.seeds import derive_seed
from stepagent.tree import Level, StepTree
from stepagent.types import Problem, Proposal, Step, Usage, Verdict

Aggregate = Literal["mean", "last", "min", "product"]
"""What a path is worth, given the values of its steps (in [0, 1], see Verdict): `last`, `min` and `product`
suit judges that score steps one by one (arXiv 2305.20050, 2408.03314), `mean` suits all."""

_AGGREGATES: dict[Aggregate, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "last": lambda values: values[-1],
    "min": min,
    "product": math.prod,
}
_UNKNOWN = 0.5


class TreeSearch:
    """Base of the strategies. A subclass grows the tree in `_grow`, which sets its path and its status."""

    def __init__(self, generator: Generator, judge: Judge, width: int) -> None:
        self._generator = generator
        self._judge = judge
        self._width = width

    def levels(self) -> int:
        """The most levels that one tree can have."""
        raise NotImplementedError

    def most(self) -> dict[str, Usage]:
        """The most that one problem can sample, by model; a judge or generator that does not say counts as
        nothing."""
        total: dict[str, Usage] = {}
        for part in (self._generator, self._judge):
            for model, usage in getattr(part, "most", lambda _: {})(self._width).items():
                each = Usage(*(self.levels() * count for count in astuple(usage)))
                total[model] = total.get(model, Usage()) + each
        return total

    async def search(self, problem: Problem, seed: int) -> StepTree:
        """See SearchStrategy."""
        start = time.monotonic()
        tree = StepTree(problem)
        try:
            await self._grow(tree, problem.without_answer(), seed)
        except* BackendError as group:
            tree.status, tree.error = "failed", str(first_cause(group))
            for level in tree.levels:
                level.abandoned |= level.chosen not in tree.path
        tree.seconds = time.monotonic() - start
        return tree

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        raise NotImplementedError

    async def _expand(self, tree: StepTree, problem: Problem, parent: int | None, seed: int) -> Level:
        """Propose and judge the next steps after `parent`. Raises BackendError if the judge failed."""
        return (await self._expand_all(tree, problem, [(parent, seed)]))[0]

    async def _expand_all(
        self, tree: StepTree, problem: Problem, parents: Sequence[tuple[int | None, int]]
    ) -> list[Level]:
        """All `parents`, each with its seed, at once; they join the tree in this order, however they end."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._next(problem, tree.prefix(parent), seed)) for parent, seed in parents
            ]
        levels = []
        for (parent, _), task in zip(parents, tasks, strict=True):
            proposal, verdict = task.result()
            level = add(tree, parent, proposal)
            level.verdict = verdict
            tree.usage += verdict.usage if verdict else Usage()
            levels.append(level)
        for level in levels:
            check_judged(level)
        return levels

    async def _next(
        self, problem: Problem, prefix: Sequence[Step], seed: int
    ) -> tuple[Proposal, Verdict | None]:
        asks()
        proposal = await self._generator.propose(problem, prefix, self._width, derive_seed(seed, "propose"))
        sound = [candidate.step for candidate in proposal.candidates if not candidate.flaws]
        if len(sound) < 2:
            return proposal, None
        asks()
        return proposal, await self._judge.judge(problem, prefix, sound, derive_seed(seed, "judge"))


def add(tree: StepTree, parent: int | None, proposal: Proposal) -> Level:
    """A new level of `proposal`'s candidates, which are to be judged unless their form is broken."""
    tree.context_text, tree.context_ids = proposal.context_text, proposal.context_ids
    tree.tokenizer_sha256 = proposal.tokenizer_sha256
    tree.usage += proposal.usage
    level = tree.add(parent, proposal.candidates)
    level.judged = tuple(node for node in level.nodes if not tree.nodes[node].candidate.flaws)
    return level


def check_judged(level: Level) -> None:
    """Raise BackendError if the judge of a level failed."""
    verdict = level.verdict
    if verdict is not None and verdict.status == "error":
        level.abandoned = True
        replies = [vote.reply for vote in verdict.votes if vote.outcome == "error"]
        why = replies[0] if replies else "the judge gave no verdict"
        raise BackendError(f"judging a level failed: {why}")


def value_of(tree: StepTree, level: Level, node: int) -> float:
    """What the judge gives for a node; where it said nothing, what its level's prefix is worth (0.5 at the
    question)."""
    if level.verdict is not None:
        values = level.verdict.values or _by_rank(level.verdict)
        value = values[level.judged.index(node)] if values else math.nan
        if not math.isnan(value):
            return value
    if level.parent is None:
        return _UNKNOWN
    return value_of(tree, tree.level_of(level.parent), level.parent)


def _by_rank(verdict: Verdict) -> tuple[float, ...]:
    """Values for a judge that gives only scores: the share of siblings that each beats, ties by half."""
    scores = verdict.scores
    if verdict.status != "ok" or any(map(math.isnan, scores)):
        return ()
    beats = [sum((own > it) + (own == it) / 2 for it in scores) - 0.5 for own in scores]
    return tuple(count / (len(scores) - 1) for count in beats)


def path_value(tree: StepTree, node: int, aggregate: Aggregate) -> float:
    """What the path from the first step to `node` is worth."""
    return _AGGREGATES[aggregate]([value_of(tree, tree.level_of(it), it) for it in tree.path_to(node)])


def finish(tree: StepTree, leaf: int | None) -> None:
    """Let the path end at `leaf`; levels that are not on it are abandoned and make no pair."""
    tree.path = tree.path_to(leaf)
    kept = set(tree.path)
    for level in tree.levels:
        level.chosen = next((node for node in level.nodes if node in kept), None)
        level.abandoned = level.chosen is None
    if leaf is None:
        tree.status = "no_signal"
    else:
        tree.status = "ended" if tree.step(leaf).ends else "max_iterations"
