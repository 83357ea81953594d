"""Base of all strategies: a tree that grows level by level, and the values of its steps."""

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
from stepagent.interfaces import Generator, Judge, most_of
from stepagent.seeds import derive_seed
from stepagent.tree import Level, StepTree
from stepagent.types import Problem, Proposal, Step, Usage, Verdict

Aggregate = Literal["mean", "last", "min", "product"]
"""Value of a path, from the values of its steps (in [0, 1], see Verdict): `last`, `min` and `product` suit
judges that score steps one by one (arXiv 2305.20050, 2408.03314), `mean` suits all."""

_AGGREGATES: dict[Aggregate, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "last": lambda values: values[-1],
    "min": min,
    "product": math.prod,
}
_UNKNOWN = 0.5


class TreeSearch:
    """Base of the strategies. A subclass implements `_grow`."""

    def __init__(self, generator: Generator, judge: Judge, width: int) -> None:
        self._generator = generator
        self._judge = judge
        self._width = width

    def levels(self) -> int:
        """Return the most levels that one tree can have."""
        raise NotImplementedError

    def most(self) -> dict[str, Usage]:
        """Return the most that one problem can sample, by model. A judge or generator without a method `most`
        counts as nothing."""
        total: dict[str, Usage] = {}
        for part in (self._generator, self._judge):
            for model, usage in most_of(part, self._width).items():
                tree_usage = Usage(*(self.levels() * count for count in astuple(usage)))
                total[model] = total.get(model, Usage()) + tree_usage
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
        """Grow the tree and set its path and status. Raises BackendError, alone or in a group."""
        raise NotImplementedError

    async def _expand(self, tree: StepTree, problem: Problem, parent: int | None, *, seed: int) -> Level:
        """Propose and judge the next steps after `parent`. Raises as `_expand_all` does."""
        return (await self._expand_all(tree, problem, [(parent, seed)]))[0]

    async def _expand_all(
        self, tree: StepTree, problem: Problem, parents: Sequence[tuple[int | None, int]]
    ) -> list[Level]:
        """Expand all `parents`, each with its seed, at once, and return their levels.

        The levels join the tree in the order of `parents`, whichever reply arrives first. Raises
        BackendError, alone or in a group, if the generator or the judge failed.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._next(problem, tree.prefix(parent), seed)) for parent, seed in parents]
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

    async def _next(self, problem: Problem, prefix: Sequence[Step], seed: int) -> tuple[Proposal, Verdict | None]:
        """Return the proposal for the next step and its verdict, None if there is nothing to compare."""
        asks()
        proposal = await self._generator.propose(problem, prefix, self._width, derive_seed(seed, "propose"))
        sound = [candidate.step for candidate in proposal.candidates if not candidate.flaws]
        if len(sound) < 2:
            return proposal, None
        asks()
        return proposal, await self._judge.judge(problem, prefix, sound, derive_seed(seed, "judge"))


def add(tree: StepTree, parent: int | None, proposal: Proposal) -> Level:
    """Add a level of `proposal`'s candidates to the tree; those of a sound form are the ones to judge."""
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
        raise BackendError(f"judging a level failed: {verdict.error or 'the judge gave no reason'}")


def value_of(tree: StepTree, level: Level, node: int) -> float:
    """Return the value of a node in [0, 1]: the judge's, else that of its parent (0.5 at the question)."""
    if level.verdict is not None:
        values = level.verdict.values or _by_rank(level.verdict)
        value = values[level.judged.index(node)] if values else math.nan
        if not math.isnan(value):
            return value
    if level.parent is None:
        return _UNKNOWN
    return value_of(tree, tree.level_of(level.parent), level.parent)


def _by_rank(verdict: Verdict) -> tuple[float, ...]:
    """Return values for a judge that gives scores alone: the share of siblings beaten, ties as half."""
    scores = verdict.scores
    if verdict.status != "ok" or any(map(math.isnan, scores)):
        return ()
    # A score is also equal to itself, which adds the half that is taken off again.
    beaten = [sum((score > rival) + (score == rival) / 2 for rival in scores) - 0.5 for score in scores]
    return tuple(count / (len(scores) - 1) for count in beaten)


def path_value(tree: StepTree, node: int, aggregate: Aggregate) -> float:
    """Return the value of the path from the first step to `node`."""
    return _AGGREGATES[aggregate]([value_of(tree, tree.level_of(step), step) for step in tree.path_to(node)])


def finish(tree: StepTree, leaf: int | None) -> None:
    """End the path at `leaf` and set the status; levels off the path are abandoned and make no pair."""
    tree.path = tree.path_to(leaf)
    path = set(tree.path)
    for level in tree.levels:
        level.chosen = next((node for node in level.nodes if node in path), None)
        level.abandoned = level.chosen is None
    if leaf is None:
        tree.status = "no_signal"
    else:
        tree.status = "ended" if tree.step(leaf).ends else "max_iterations"
