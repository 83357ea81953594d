"""Best of n whole solutions: a solution with the answer that most reach (self-consistency, arXiv 2203.11171),
or the one that the judge picks (arXiv 2110.14168).

Degenerate case: n = 1 is one sample.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from stepagent.config.settings import Positive
from stepagent.graders.marking import MATH, vote
from stepagent.interfaces import Generator, Grader, Judge, most_of
from stepagent.seeds import derive_seed
from stepagent.strategies.growing import check_judged, finish
from stepagent.strategies.whole import WholeSearch
from stepagent.tree import Level, StepTree
from stepagent.types import Problem, Usage


class BestOfN(WholeSearch):
    """Search that samples `n` solutions of at most `max_tokens` each; `grader` tells equal answers. With `pick: judge`
    the best and the worst make a preference pair whose steps are whole solutions."""

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        n: Positive = 16,
        *,
        pick: Literal["majority", "judge"] = "majority",
        max_tokens: Positive = 2048,
        grader: Grader = MATH,
    ) -> None:
        super().__init__(generator, judge if pick == "judge" else None, n, max_tokens=max_tokens)
        self._grader = grader

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        level = await self._solutions(tree, problem, seed)
        if not level.judged:
            finish(tree, None)
        elif self._selector is None:
            # In a thread, because comparing answers may take long.
            finish(tree, await asyncio.to_thread(self._first_of_majority, tree, level))
        else:
            finish(tree, await self._judged(tree, problem, level, seed))

    def _first_of_majority(self, tree: StepTree, level: Level) -> int:
        """Return the first solution with the answer that most solutions reach. The tree gets the reason why a solution
        had no vote."""
        nodes = [node for node in level.judged for _ in range(tree.step(node).count)]
        votes = vote(self._grader, [tree.step(node).text for node in nodes])
        tree.error = votes.error
        return nodes[votes.agreeing[0]] if votes.agreeing else nodes[0]

    async def _judged(self, tree: StepTree, problem: Problem, level: Level, seed: int) -> int:
        """Return the solution that the judge calls best, or the first if it calls none."""
        assert self._selector is not None
        steps = [tree.step(node) for node in level.judged]
        if len(steps) > 1:
            level.verdict = await self._selector.judge(problem, (), steps, derive_seed(seed, problem.id, "judge"))
            tree.usage += level.verdict.usage
            check_judged(level)
        best = level.verdict.best if level.verdict else None
        return level.judged[best or 0]

    def most(self) -> dict[str, Usage]:
        """See TreeSearch."""
        total = super().most()
        for model, usage in most_of(self._selector, self._width).items():
            total[model] = total.get(model, Usage()) + usage
        return total
