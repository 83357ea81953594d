"""What the strategies over whole solutions share: a tree of one level, whose steps are solutions."""

from __future__ import annotations

from stepagent.errors import ConfigError
from stepagent.interfaces import Generator, Judge, Solver
from stepagent.search.growing import TreeSearch, add
from stepagent.seeds import derive_seed
from stepagent.tree import Level, StepTree
from stepagent.types import Problem, Usage


class WholeSearch(TreeSearch):
    """Asks `generator` for `n` solutions of at most `max_tokens` in one request. Raises ConfigError for a
    generator that writes steps only."""

    def __init__(self, generator: Generator, picks: Judge | None, n: int, max_tokens: int) -> None:
        if not isinstance(generator, Solver):
            raise ConfigError(
                f"search.kind: {type(generator).__name__} writes steps only; this strategy needs whole "
                "solutions from it (a method 'solve')"
            )
        self._solver = generator
        self._picks = picks
        self._width = n
        self._max_tokens = max_tokens

    def most(self) -> dict[str, Usage]:
        """See TreeSearch."""
        return {getattr(self._solver, "model", ""): Usage(1, 0, self._width * self._max_tokens)}

    async def _solutions(self, tree: StepTree, problem: Problem, seed: int, greedy: bool = False) -> Level:
        drawn = derive_seed(seed, problem.id, "solve")
        return add(
            tree, None, await self._solver.solve(problem, self._width, self._max_tokens, drawn, greedy=greedy)
        )
