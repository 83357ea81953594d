"""Many problems at once: read as they are needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stepagent import (
    Problem,
    Proposal,
    Step,
    StepTree,
)
from stepagent.strategies.runner import search_all
from stepagent.strategies.step import StepSearch
from stepagent.testing import ListedGenerator, RankingJudge


async def test_problems_are_read_only_as_they_are_needed() -> None:
    starts: list[int] = []
    ended: list[int] = []

    class Yielding(ListedGenerator):
        async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
            await asyncio.sleep(0)
            return await super().propose(problem, prefix, width, seed)

    def stream() -> list[tuple[int, Problem]]:
        for place in range(100):
            starts.append(place)
            yield place, Problem(str(place), "q")

    def finish(place: int, _: StepTree) -> None:
        ended.append(place)
        assert len(starts) - len(ended) <= 4

    strategy = StepSearch(Yielding(["a"], ["b."]), RankingJudge(len), 1)
    await search_all(strategy, stream(), 0, concurrency=4, finished=finish)
    assert sorted(ended) == list(range(100))
