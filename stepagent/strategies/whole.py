"""Base of the strategies over whole solutions: a tree of one level, whose steps are solutions."""

from __future__ import annotations

from stepagent.errors import ConfigError
from stepagent.interfaces import Generator, Judge, Solver, model_name
from stepagent.seeds import derive_seed
from stepagent.strategies.growing import TreeSearch, add
from stepagent.tree import Level, StepTree
from stepagent.types import Problem, Usage


class WholeSearch(TreeSearch):
    """Search that asks `generator` for `n` solutions of at most `max_tokens` in one request.

    `selector` is the judge of the solutions, if there is one. Raises ConfigError for a generator that writes
    steps only.
    """

    def __init__(self, generator: Generator, selector: Judge | None, n: int, *, max_tokens: int) -> None:
        if not isinstance(generator, Solver):
            raise ConfigError(
                f"search.kind: {type(generator).__name__} writes steps only; this strategy needs whole "
                "solutions from it (a method 'solve')"
            )
        self._solver = generator
        self._selector = selector
        self._width = n
        self._max_tokens = max_tokens

    def most(self) -> dict[str, Usage]:
        """See TreeSearch."""
        return {model_name(self._solver): Usage(1, 0, self._width * self._max_tokens)}

    async def _solutions(self, tree: StepTree, problem: Problem, seed: int, *, greedy: bool = False) -> Level:
        """Add the level of the solutions to the tree, and return it."""
        seed = derive_seed(seed, problem.id, "solve")
        proposal = await self._solver.solve(problem, self._width, self._max_tokens, seed, greedy=greedy)
        return add(tree, None, proposal)
