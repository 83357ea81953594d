"""Greedy decoding, the baseline of every search: always the likeliest token, one request a problem."""

from __future__ import annotations

from stepagent.config.settings import Positive
from stepagent.interfaces import Generator
from stepagent.strategies.growing import finish
from stepagent.strategies.whole import WholeSearch
from stepagent.tree import StepTree
from stepagent.types import Problem


class GreedySearch(WholeSearch):
    """Search that samples one solution at temperature 0, of at most `max_tokens`."""

    def __init__(self, generator: Generator, max_tokens: Positive = 2048) -> None:
        super().__init__(generator, None, 1, max_tokens=max_tokens)

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        level = await self._solutions(tree, problem, seed, greedy=True)
        finish(tree, next(iter(level.judged), None))
