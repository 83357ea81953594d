"""Diverse verifier tree search (Beeching et al. 2024, "Scaling test-time compute with open models"):
`subtrees` searches that do not compete, each greedy over judged steps; the best finished path wins.

Degenerate case: one subtree is step search without roll-backs.
"""

from __future__ import annotations

from stepagent.config.settings import Positive
from stepagent.interfaces import Generator, Judge
from stepagent.search.growing import Aggregate, TreeSearch, finish, path_value
from stepagent.seeds import derive_seed
from stepagent.tree import Level, StepTree
from stepagent.types import Problem


class DiverseSearch(TreeSearch):
    """Every subtree proposes `width` steps a level; at most `max_steps` deep."""

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        width: Positive = 4,
        subtrees: Positive = 4,
        max_steps: Positive = 20,
        aggregate: Aggregate = "mean",
    ) -> None:
        super().__init__(generator, judge, width)
        self._subtrees = subtrees
        self._max_steps = max_steps
        self._aggregate: Aggregate = aggregate

    def levels(self) -> int:
        """See TreeSearch."""
        return self._max_steps * self._subtrees

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        leaves: list[int | None] = [None] * self._subtrees
        ended: list[int] = []
        for depth in range(self._max_steps):
            seeded = [
                (leaf, derive_seed(seed, problem.id, depth, index)) for index, leaf in enumerate(leaves)
            ]
            levels = await self._expand_all(tree, problem, seeded)
            best = [self._best(tree, level) for level in levels]
            ended += [node for node in best if node is not None and tree.step(node).ends]
            found = [node for node in best if node is not None and node not in ended]
            if not found:
                break
            leaves = [*found]
        last = [node for node in leaves if node is not None]
        finish(
            tree, max(ended or last, key=lambda node: path_value(tree, node, self._aggregate), default=None)
        )

    def _best(self, tree: StepTree, level: Level) -> int | None:
        return max(level.judged, key=lambda node: path_value(tree, node, self._aggregate), default=None)
