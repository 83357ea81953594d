"""Monte-Carlo tree search with UCT (Kocsis and Szepesvari 2006) over steps (arXiv 2405.00451, 2406.03816).

A simulation walks down from the question to the child of the highest mean value + c * sqrt(ln(visits of the
parent) / visits), expands the leaf it ends at, and backs up the judge's value of each new step. With
`judge: {kind: rollouts}` these values are shares of rollouts, as in classical MCTS; other judges' values
stand in for them.
Degenerate case: `exploration` 0 always walks to the best mean value.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from stepagent.config.settings import Positive
from stepagent.interfaces import Generator, Judge
from stepagent.seeds import derive_seed
from stepagent.strategies.growing import TreeSearch, finish, value_of
from stepagent.tree import StepTree
from stepagent.types import Problem


class MctsSearch(TreeSearch):
    """MCTS of `simulations` walks; the most visited path that ends a solution wins."""

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        width: Positive = 4,
        *,
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
        visits = _Visits()
        for simulation in range(self._simulations):
            leaf = visits.walk(self._exploration)
            if leaf is not None and tree.step(leaf).ends:
                visits.back_up(tree, leaf, value_of(tree, tree.level_of(leaf), leaf))
                continue
            level = await self._expand(tree, problem, leaf, seed=derive_seed(seed, problem.id, simulation))
            visits.children[leaf] = list(level.judged)
            for node in level.judged:
                visits.back_up(tree, node, value_of(tree, level, node))
            if not level.judged:  # a dead end: nothing can follow it
                if leaf is None:
                    break
                visits.close(tree, leaf)
        finish(tree, visits.most_visited(tree))


class _Visits:
    """Visits of each node, and the sum of the values backed up through it; None is the question."""

    def __init__(self) -> None:
        self.children: dict[int | None, list[int]] = {}
        self._visits: dict[int | None, int] = {}
        self._total: dict[int | None, float] = {}

    def walk(self, exploration: float) -> int | None:
        """Walk down from the question by UCT and return the first node without children."""
        node: int | None = None
        while children := self.children.get(node):
            log_visits = math.log(self._visits[node])
            # Of equal children the first proposed is taken, so that a walk needs no random numbers.
            node = max(children, key=lambda child: self._bound(child, exploration, log_visits))
        return node

    def _bound(self, child: int, exploration: float, log_visits: float) -> float:
        """Return a child's upper confidence bound (UCB1), given the log of its parent's visits."""
        # Never 0: an expansion backs up a value for each child, so that no bound is infinite.
        visits = self._visits[child]
        return self._total[child] / visits + exploration * math.sqrt(log_visits / visits)

    def back_up(self, tree: StepTree, node: int, value: float) -> None:
        """Count a visit of `value` for a node, all nodes before it and the question."""
        for place in (None, *tree.path_to(node)):
            self._visits[place] = self._visits.get(place, 0) + 1
            self._total[place] = self._total.get(place, 0.0) + value

    def close(self, tree: StepTree, node: int) -> None:
        """Take a dead end out of later walks, and every node before it that is left without children."""
        for ancestor in reversed(tree.path_to(node)):
            if self.children.get(ancestor):
                return
            parent = tree.nodes[ancestor].parent
            self.children[parent].remove(ancestor)

    def most_visited(self, tree: StepTree) -> int | None:
        """Return the leaf that most visits lead to, out of those that end a solution, or else out of all.

        None in an empty tree.
        """
        leaves = {node for nodes in self.children.values() for node in nodes if not self.children.get(node)}
        goals = {leaf for leaf in leaves if tree.step(leaf).ends} or leaves
        if not goals:
            return None
        # A well visited node may lead to unfinished solutions only: the walk keeps to paths to a goal.
        open_nodes = {node for leaf in goals for node in tree.path_to(leaf)}
        node: int | None = None
        while node not in goals:
            children = (child for child in self.children[node] if child in open_nodes)
            node = max(children, key=lambda child: self._visits[child])
        return node
