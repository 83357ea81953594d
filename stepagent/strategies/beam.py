"""Searches that grow a tree depth by depth: beam search and diverse verifier tree search.

Paths of different prefixes are compared by the values of their steps (`aggregate`). Degenerate case: one beam
and one subtree are both step search without roll-backs.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepagent.config.settings import Positive
from stepagent.interfaces import Generator, Judge
from stepagent.seeds import derive_seed
from stepagent.strategies.growing import Aggregate, TreeSearch, finish, path_value
from stepagent.tree import Level, StepTree
from stepagent.types import Problem


class _ByDepth(TreeSearch):
    """Base of both searches: `_roots` paths start at the question, and at most `_paths` go on at each depth."""

    _roots: int
    _paths: int

    def __init__(self, generator: Generator, judge: Judge, width: int, *, max_steps: int, aggregate: Aggregate) -> None:
        super().__init__(generator, judge, width)
        self._max_steps = max_steps
        self._aggregate: Aggregate = aggregate

    def levels(self) -> int:
        """See TreeSearch."""
        return self._roots + (self._max_steps - 1) * self._paths

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        parents: list[int | None] = [None] * self._roots
        ended: list[int] = []
        for depth in range(self._max_steps):
            seeded = [(node, derive_seed(seed, problem.id, depth, i)) for i, node in enumerate(parents)]
            survivors = self._select(tree, ended, await self._expand_all(tree, problem, seeded))
            ended = [node for node in survivors if tree.step(node).ends]
            unfinished = [node for node in survivors if not tree.step(node).ends]
            if not unfinished:
                break
            parents = [*unfinished]
        finish(tree, self._best(tree, ended or [node for node in parents if node is not None]))

    def _select(self, tree: StepTree, ended: list[int], levels: Sequence[Level]) -> list[int]:
        """Return the leaves that stay, out of the `ended` ones and those of the newest `levels`."""
        raise NotImplementedError

    def _value(self, tree: StepTree, node: int) -> float:
        return path_value(tree, node, self._aggregate)

    def _best(self, tree: StepTree, nodes: Sequence[int]) -> int | None:
        return max(nodes, key=lambda node: self._value(tree, node), default=None)


class BeamSearch(_ByDepth):
    """Beam search over steps: of all candidates of a depth, the `beams` best paths go on (arXiv 2305.00633,
    2408.03314).

    Every beam proposes `width` steps, at most `max_steps` deep. Finished paths keep their place in the beam.
    """

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        width: Positive = 4,
        *,
        beams: Positive = 4,
        max_steps: Positive = 20,
        aggregate: Aggregate = "mean",
    ) -> None:
        super().__init__(generator, judge, width, max_steps=max_steps, aggregate=aggregate)
        self._roots, self._paths = 1, beams

    def _select(self, tree: StepTree, ended: list[int], levels: Sequence[Level]) -> list[int]:
        leaves = [*ended, *(node for level in levels for node in level.judged)]
        return sorted(leaves, key=lambda node: -self._value(tree, node))[: self._paths]


class DiverseSearch(_ByDepth):
    """Diverse verifier tree search (Beeching et al. 2024, "Scaling test-time compute with open models"):
    `subtrees` greedy searches that do not compete; the best finished path wins.

    Every subtree proposes `width` steps a level, at most `max_steps` deep.
    """

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        width: Positive = 4,
        *,
        subtrees: Positive = 4,
        max_steps: Positive = 20,
        aggregate: Aggregate = "mean",
    ) -> None:
        super().__init__(generator, judge, width, max_steps=max_steps, aggregate=aggregate)
        self._roots = self._paths = subtrees

    def _select(self, tree: StepTree, ended: list[int], levels: Sequence[Level]) -> list[int]:
        best = (self._best(tree, level.judged) for level in levels)
        return [*ended, *(node for node in best if node is not None)]
