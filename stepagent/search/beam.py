"""Beam search over steps: of all candidates of a depth, the `beams` best paths go on (arXiv 2305.00633,
2408.03314).

Paths of different prefixes are compared by what their steps are worth (`aggregate`). Finished paths keep
their place in the beam. Degenerate case: one beam is step search without roll-backs.
"""

from __future__ import annotations

from stepagent.config.settings import Positive
from stepagent.interfaces import Generator, Judge
from stepagent.search.growing import Aggregate, TreeSearch, finish, path_value
from stepagent.seeds import derive_seed
from stepagent.tree import StepTree
from stepagent.types import Problem


class BeamSearch(TreeSearch):
    """Every beam proposes `width` steps; at most `max_steps` deep."""

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        width: Positive = 4,
        beams: Positive = 4,
        max_steps: Positive = 20,
        aggregate: Aggregate = "mean",
    ) -> None:
        super().__init__(generator, judge, width)
        self._beams = beams
        self._max_steps = max_steps
        self._aggregate: Aggregate = aggregate

    def levels(self) -> int:
        """See TreeSearch."""
        return 1 + (self._max_steps - 1) * self._beams

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        kept: list[int] = []
        for depth in range(self._max_steps):
            done = [node for node in kept if tree.step(node).ends]
            parents = [node for node in kept if node not in done]
            if depth and not parents:
                break
            seeded = [
                (parent, derive_seed(seed, problem.id, depth, index))
                for index, parent in enumerate(parents or [None])
            ]
            levels = await self._expand_all(tree, problem, seeded)
            leaves = [*done, *(node for level in levels for node in level.judged)]
            if not leaves:
                break
            leaves.sort(key=lambda node: -path_value(tree, node, self._aggregate))
            kept = leaves[: self._beams]
        ended = [node for node in kept if tree.step(node).ends]
        finish(tree, next(iter(ended or kept), None))
