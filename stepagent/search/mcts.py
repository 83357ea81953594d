"""Monte-Carlo tree search with UCT (Kocsis and Szepesvari 2006) over steps (arXiv 2405.00451, 2406.03816).

A simulation walks down from the question by value + c * sqrt(ln(visits of the parent) / visits), expands the
leaf it ends at, and backs up what the judge gives for each new step. With `judge: {kind: rollouts}` those
are shares of rollouts, so this is classical MCTS; with other judges their values stand in for rollouts.
Degenerate case: `exploration` 0 always walks to the best mean value.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from stepagent.config.settings import Positive
from stepagent.interfaces import Generator, Judge
from stepagent.search.growing import TreeSearch, finish, value_of
from stepagent.seeds import derive_seed
from stepagent.tree import StepTree
from stepagent.types import Problem


class MctsSearch(TreeSearch):
    """`simulations` walks; the path of most visits that ends a solution wins."""

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        width: Positive = 4,
        simulations: Positive = 32,
        exploration: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        super().__init__(generator, judge, width)
        self._simulations = simulations
        self._exploration = exploration

    def levels(self) -> int:
        """See TreeSearch."""
        return self._simulations

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        seen = _Visits()
        for turn in range(self._simulations):
            leaf = seen.walk(self._exploration)
            if leaf is not None and tree.step(leaf).ends:
                seen.back_up(tree, leaf, value_of(tree, tree.level_of(leaf), leaf))
                continue
            level = await self._expand(tree, problem, leaf, derive_seed(seed, problem.id, turn))
            seen.children[leaf] = list(level.judged)
            for node in level.judged:
                seen.back_up(tree, node, value_of(tree, level, node))
            if not level.judged:  # a dead end: nothing can follow it
                if leaf is None:
                    break
                seen.close(tree, leaf)
        finish(tree, seen.most_visited(tree))


class _Visits:
    """How often each node was visited and the sum of what was backed up through it; None is the question."""

    def __init__(self) -> None:
        self.children: dict[int | None, list[int]] = {}
        self._visits: dict[int | None, int] = {}
        self._total: dict[int | None, float] = {}

    def walk(self, exploration: float) -> int | None:
        """Down from the question to a node that has no children."""
        node: int | None = None
        while children := self.children.get(node):
            reach = math.log(self._visits[node])
            node = max(
                children,
                key=lambda it: (
                    self._total[it] / self._visits[it] + exploration * math.sqrt(reach / self._visits[it])
                ),
            )
        return node

    def back_up(self, tree: StepTree, node: int, value: float) -> None:
        """Count a visit of `value` for a node and all before it."""
        for it in (None, *tree.path_to(node)):
            self._visits[it] = self._visits.get(it, 0) + 1
            self._total[it] = self._total.get(it, 0.0) + value

    def close(self, tree: StepTree, node: int) -> None:
        """Take a dead end out of the tree's walks, and what it leaves childless."""
        for it in reversed(tree.path_to(node)):
            if self.children.get(it):
                return
            parent = tree.nodes[it].parent
            self.children[parent].remove(it)

    def most_visited(self, tree: StepTree) -> int | None:
        """The leaf of the path of most visits among those that end a solution; among all, if none does."""
        leaves = {node for nodes in self.children.values() for node in nodes if not self.children.get(node)}
        wanted = {leaf for leaf in leaves if tree.step(leaf).ends} or leaves
        if not wanted:
            return None
        open_nodes = {it for leaf in wanted for it in tree.path_to(leaf)}
        node: int | None = None
        while node not in wanted:
            node = max(
                (it for it in self.children[node] if it in open_nodes), key=lambda it: self._visits[it]
            )
        return node
