"""Search many problems at once; each finished tree is handed on while the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from stepagent.backends.pool import turn
from stepagent.interfaces import SearchStrategy
from stepagent.tree import StepTree
from stepagent.types import Problem


async def search_all(
    strategy: SearchStrategy,
    problems: Iterable[tuple[int, Problem]],
    seed: int,
    concurrency: int,
    finished: Callable[[int, StepTree], None],
) -> None:
    """Search `problems`, each with its place, with at most `concurrency` trees open. Where requests must
    wait, those of the lowest place go first: old trees end before new ones go on.

    The problems are read as they are needed, so a stream of any length fits. `finished` is called once
    per problem, in the order in which they end.
    """
    stream = iter(problems)

    async def work() -> None:
        for place, problem in stream:
            turn.set(place)
            finished(place, await strategy.search(problem, seed))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
