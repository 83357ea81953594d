"""Votes -> verdict: both positions must agree, scores are wins, nothing is guessed."""

from __future__ import annotations

import math
import random

import pytest

from stepagent import (
    Usage,
    Verdict,
    Vote,
)
from stepagent.judges.comparisons import all_pairs, tally
from stepagent.judges.strengths import bradley_terry


async def verdict_of(count: int, prefer: object, seed: int = 0) -> Verdict:
    async def compare(first: int, second: int) -> tuple[Vote, Usage]:
        return Vote(first, second, prefer(first, second)), Usage(1, 0, 0)

    return await all_pairs(count, compare, seed)


async def test_a_consistent_judge_ranks_by_wins() -> None:
    verdict = await verdict_of(4, lambda a, b: "first" if a < b else "second")
    assert verdict.status == "ok"
    assert verdict.scores == (3, 2, 1, 0)
    assert (verdict.best, verdict.worst) == (0, 3)
    assert verdict.usage.requests == 4 * 3
    assert {(v.first, v.second) for v in verdict.votes} == {(a, b) for a in range(4) for b in range(4) if a != b}


async def test_a_judge_that_always_prefers_one_position_gives_no_signal() -> None:
    verdict = await verdict_of(6, lambda a, b: "first")
    assert verdict.status == "no_signal"
    assert verdict.best is verdict.worst is None


async def test_ties_make_no_win() -> None:
    verdict = await verdict_of(3, lambda a, b: "first" if (a, b) == (0, 2) else "second" if (a, b) == (2, 0) else "tie")
    assert verdict.scores == (1, 0, 0)
    assert verdict.best == 0
    assert verdict.worst in (1, 2)


async def test_one_unparsed_position_voids_the_pair_and_all_unparsed_is_its_own_status() -> None:
    half = await verdict_of(2, lambda a, b: "first" if a == 0 else "unparsed")
    assert half.status == "unparsed"
    assert half.scores == (0, 0)
    assert (await verdict_of(2, lambda a, b: "error")).status == "error"
    assert (await verdict_of(2, lambda a, b: "error" if a else "unparsed")).status == "unparsed"


async def test_tie_breaks_follow_the_seed_alone() -> None:
    def prefer(a: int, b: int) -> str:
        return "tie" if {a, b} == {0, 1} else "first" if a < b else "second"

    picks = {seed: (await verdict_of(3, prefer, seed)).best for seed in range(20)}
    repeated = {seed: (await verdict_of(3, prefer, seed)).best for seed in range(20)}
    assert picks == repeated
    assert set(picks.values()) == {0, 1}


async def test_relabelling_candidates_relabels_the_verdict() -> None:
    rank = [2, 0, 3, 1]
    verdict = await verdict_of(4, lambda a, b: "first" if rank[a] > rank[b] else "second")
    assert (verdict.best, verdict.worst) == (2, 1)
    assert verdict.scores == tuple(float(r) for r in rank)


def test_bradley_terry_of_one_agreed_pair() -> None:
    """Candidate 0 wins both meetings; the prior adds one meeting with a candidate of strength 1, half won.

    By symmetry s_1 = 1/s_0. At the maximum, expected wins equal wins: with s = s_0,
    2 s/(s + 1/s) + s/(s + 1) = 2.5.
    """
    strengths = bradley_terry(2, [Vote(0, 1, "first"), Vote(1, 0, "second")])
    s = math.exp(strengths[0])
    assert strengths[0] == pytest.approx(-strengths[1], abs=1e-6)
    assert 2 * s**2 / (s**2 + 1) + s / (s + 1) == pytest.approx(2.5, abs=1e-6)


def test_margin_grows_with_evidence_and_stays_below_one() -> None:
    def sweep(count: int) -> float:
        votes = [Vote(a, b, "first" if a < b else "second") for a in range(count) for b in range(count) if a != b]
        margin = tally(count, votes, Usage(), seed=0).margin
        assert margin is not None
        return margin

    assert 0.5 < sweep(2) < sweep(4) < sweep(6) < 1


async def test_best_and_worst_are_settled_or_there_is_no_signal() -> None:
    """Every ok verdict gives its best a margin above one half, however many votes were lost."""

    rng = random.Random(5)
    statuses = set()
    for seed in range(300):
        noise = {(a, b): rng.choice(["first", "second", "tie", "unparsed"]) for a in range(4) for b in range(4)}
        verdict = await verdict_of(4, lambda a, b, noise=noise: noise[a, b], seed)
        statuses.add(verdict.status)
        if verdict.status == "ok":
            assert verdict.margin > 0.5
            assert verdict.scores[verdict.best] > verdict.scores[verdict.worst]
    assert {"ok", "no_signal"} <= statuses


async def test_all_pairs_stays_the_papers() -> None:
    async def compare(first: int, second: int) -> tuple[Vote, Usage]:
        return Vote(first, second, "first" if first < second else "second"), Usage(1, 0, 0)

    assert (await all_pairs(4, compare, 0)).usage.requests == 12
