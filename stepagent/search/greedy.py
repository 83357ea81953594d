"""Greedy decoding: the likeliest token, always, in one request a problem. The baseline of every search."""

from __future__ import annotations

from stepagent.config.settings import Positive
from stepagent.interfaces import Generator
from stepagent.search.growing import finish
from stepagent.search.whole import WholeSearch
from stepagent.tree import StepTree
from stepagent.types import Problem


class GreedySearch(WholeSearch):
    """One solution at temperature 0, of at most `max_tokens`."""

    def __init__(self, generator: Generator, max_tokens: Positive = 2048) -> None:
        super().__init__(generator, None, 1, max_tokens)

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        level = await self._solutions(tree, problem, seed, greedy=True)
        finish(tree, next(iter(level.judged), None))
