"""Search many problems at once; each finished tree is handed on while the others go on."""

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
    concurrency: int,
    finished: Callable[[int, StepTree], None],
) -> None:
    """Search `problems`, each with its place, with at most `concurrency` trees open; see Turn for whose
    requests go first where they must wait.

    The problems are read as they are needed, so a stream of any length fits. `finished` is called once
    per problem, in the order in which they end.
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
    """The stream, read one problem ahead: `opening` is over with the last."""
    ahead = next(stream, None)
    while ahead is not None:
        given, ahead = ahead, next(stream, None)
        opening.over = ahead is None
        yield given
