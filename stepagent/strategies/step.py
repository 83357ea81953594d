"""The paper's step search (arXiv 2503.03746, section 3): propose w steps, judge them, keep the best, go on.

If the judge gives no signal at a level, the last step and its pair are dropped and sampled again (roll-back),
at most `max_rollbacks` times a problem; then the problem ends as "no_signal". At the first step there is
nothing to drop: it is sampled again. Degenerate case: with one distinct candidate at every level (T=0, or a
model that is sure) this is plain decoding: such a level is followed without a verdict and makes no pair.
(Read to the letter, the paper would roll it back; a sure model would then never finish.)
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepagent.config.settings import Positive
from stepagent.interfaces import Generator, Judge
from stepagent.seeds import derive_seed
from stepagent.strategies.growing import TreeSearch
from stepagent.tree import StepTree
from stepagent.types import Problem


class StepSearch(TreeSearch):
    """Search that follows the best step of each level; `max_iterations` counts roll-backs too."""

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        width: Positive = 6,
        *,
        max_iterations: Positive = 20,
        max_rollbacks: Annotated[int, Field(ge=0)] = 2,
    ) -> None:
        super().__init__(generator, judge, width)
        self._max_iterations = max_iterations
        self._max_rollbacks = max_rollbacks

    def levels(self) -> int:
        """See TreeSearch."""
        return self._max_iterations

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        for iteration in range(self._max_iterations):
            parent = tree.path[-1] if tree.path else None
            level = await self._expand(tree, problem, parent, seed=derive_seed(seed, problem.id, iteration))
            if len(level.judged) == 1:
                level.chosen = level.judged[0]
            elif level.verdict and level.verdict.best is not None:
                level.chosen = level.judged[level.verdict.best]
            if level.chosen is not None:
                tree.path.append(level.chosen)
                if tree.step(level.chosen).ends:
                    tree.status = "ended"
                    return
                continue
            level.abandoned = True
            if tree.rollbacks == self._max_rollbacks:
                tree.status = "no_signal"
                return
            tree.rollbacks += 1
            if tree.path:
                step = tree.path.pop()
                tree.level_of(step).abandoned = True
