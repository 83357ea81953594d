"""Adaptive comparisons: few, in both positions, by the seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from stepagent import (
    Usage,
    Verdict,
    Vote,
)
from stepagent.judges.comparisons import adaptive


async def verdict_of(count: int, prefer: Callable[[int, int], str], seed: int = 0) -> Verdict:
    async def compare(first: int, second: int) -> tuple[Vote, Usage]:
        return Vote(first, second, prefer(first, second)), Usage(1, 0, 0)

    return await adaptive(count, compare, seed)


@pytest.mark.parametrize("count", [2, 3, 4, 6, 9, 16])
async def test_adaptive_finds_both_ends_with_as_few_comparisons_as_there_can_be(count: int) -> None:
    for seed in range(5):
        rank = random.Random(seed).sample(range(count), count)
        verdict = await verdict_of(count, lambda a, b, r=rank: "first" if r[a] > r[b] else "second", seed)
        assert verdict.status == "ok"
        assert (verdict.best, verdict.worst) == (rank.index(count - 1), rank.index(0))
        assert verdict.usage.requests <= 2 * (math.ceil(3 * count / 2) - 2 + count % 2)
        assert verdict.margin is not None
        assert verdict.margin > 0.8


async def test_adaptive_asks_a_noisy_judge_more_and_never_the_same_twice() -> None:
    def prefer(a: int, b: int) -> str:
        right = a > b
        return "first" if right != (random.Random(100 * a + b).random() < 0.25) else "second"

    verdict = await verdict_of(6, prefer, 1)
    positions = [(vote.first, vote.second) for vote in verdict.votes]
    assert len(positions) == len(set(positions))
    assert 14 < len(positions) <= 30
    assert {(b, a) for a, b in positions} == set(positions), "always both positions"
    assert verdict.status == "ok"


async def test_adaptive_gives_no_signal_where_only_the_position_decides_and_counts_failures() -> None:
    assert (await verdict_of(5, lambda a, b: "first")).status == "no_signal"
    assert (await verdict_of(4, lambda a, b: "tie")).status == "no_signal"
    assert (await verdict_of(4, lambda a, b: "unparsed")).status == "unparsed"
    assert (await verdict_of(4, lambda a, b: "error")).status == "error"


async def test_adaptive_depends_on_the_seed_and_not_on_arrival() -> None:
    def prefer(a: int, b: int) -> str:
        return "first" if a > b else "second"

    assert await verdict_of(8, prefer, 3) == await verdict_of(8, prefer, 3)
    assert (await verdict_of(8, prefer, 3)).votes != (await verdict_of(8, prefer, 4)).votes
