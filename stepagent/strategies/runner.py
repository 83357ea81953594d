"""Search of many problems at once; each tree is handed on as soon as it is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from stepagent.backends.pool import Opening, Turn, turn
from stepagent.interfaces import SearchStrategy
from stepagent.tree import StepTree
from stepagent.types import Problem


async def search_all(
    strategy: SearchStrategy,
    problems: Iterable[tuple[int, Problem]],
    seed: int,
    *,
    concurrency: int,
    finished: Callable[[int, StepTree], None],
) -> None:
    """Search `problems`, each with its place, with at most `concurrency` trees open.

    The problems are read as they are needed, so a stream of any length fits. `finished` gets place and tree
    once per problem, in the order in which the trees end. `pool.Turn` orders requests that must wait.
    """
    opening = Opening()
    stream = _until_last(iter(problems), opening)

    async def work() -> None:
        for place, problem in stream:
            turn.set(Turn(place, opening=opening))
            finished(place, await strategy.search(problem, seed))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


def _until_last(stream: Iterator[tuple[int, Problem]], opening: Opening) -> Iterator[tuple[int, Problem]]:
    """Yield from the stream, read one problem ahead, so that `opening` is over with the last one."""
    following = next(stream, None)
    while following is not None:
        problem, following = following, next(stream, None)
        opening.over = following is None
        yield problem
