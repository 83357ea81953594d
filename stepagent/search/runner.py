"""Search many problems at once; each finished tree is handed on while the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from stepagent.interfaces import SearchStrategy
from stepagent.tree import StepTree
from stepagent.types import Problem


async def search_all(
    strategy: SearchStrategy,
    problems: Iterable[Problem],
    seed: int,
    concurrency: int,
    finished: Callable[[StepTree], None],
) -> None:
    """Search `problems` with at most `concurrency` trees open; older problems start first.

    The problems are read as they are needed, so a stream of any length fits. `finished` is called once
    per problem, in the order in which they end.
    """
    stream = iter(problems)

    async def work() -> None:
        for problem in stream:
            finished(await strategy.search(problem, seed))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
