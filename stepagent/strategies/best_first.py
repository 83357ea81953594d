"""Best-first search (A* without a cost, as in Tree of Thoughts, arXiv 2305.10601): the open path of the
highest value is expanded next, wherever it is in the tree.

Degenerate case: with `width` 1 it is plain decoding.
"""

from __future__ import annotations

import heapq

from stepagent.config.settings import Positive
from stepagent.interfaces import Generator, Judge
from stepagent.seeds import derive_seed
from stepagent.strategies.growing import Aggregate, TreeSearch, finish, path_value
from stepagent.tree import StepTree
from stepagent.types import Problem


class BestFirstSearch(TreeSearch):
    """Best-first search of at most `expansions` expansions. The first finished path wins whose value is above
    that of all open paths."""

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        width: Positive = 4,
        *,
        expansions: Positive = 40,
        aggregate: Aggregate = "mean",
    ) -> None:
        super().__init__(generator, judge, width)
        self._expansions = expansions
        self._aggregate: Aggregate = aggregate

    def levels(self) -> int:
        """See TreeSearch."""
        return self._expansions

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        open_paths: list[tuple[float, int, int | None]] = [(0.0, 0, None)]
        for expansion in range(self._expansions):
            if not open_paths or self._ends(tree, open_paths[0][2]):
                break
            _, _, parent = heapq.heappop(open_paths)
            level = await self._expand(tree, problem, parent, seed=derive_seed(seed, problem.id, expansion))
            for node in level.judged:
                depth_key = -len(tree.path_to(node))  # of equal paths the deepest goes on, to end sooner
                heapq.heappush(open_paths, (-path_value(tree, node, self._aggregate), depth_key, node))
        ranked = sorted(open_paths, key=lambda path: (not self._ends(tree, path[2]), path[0], path[1]))
        finish(tree, ranked[0][2] if ranked else None)

    def _ends(self, tree: StepTree, node: int | None) -> bool:
        return node is not None and tree.step(node).ends
