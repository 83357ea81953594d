"""From pairwise votes to a verdict: which comparisons are made, in which seats, and what they add up to.

all_pairs   every pair in both seats, the paper's (arXiv 2503.03746, Eq. 2): w(w-1) comparisons
adaptive    rounds of comparisons, in both seats, only among those that may still be best or worst

A vote counts only if both seats agree on the content; a judge that always prefers one seat therefore gives no
signal.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

from stepagent.judges.strengths import among_siblings, bradley_terry, chance
from stepagent.types import Usage, Verdict, Vote

Compare = Callable[[int, int], Coroutine[None, None, tuple[Vote, Usage]]]
"""(candidate in the first seat, candidate in the second) -> the vote and what it cost."""

Comparisons = Literal["adaptive", "all_pairs"]
CONFIDENCE = 0.8
"""A candidate is out of the race for best once another beats it with this estimated probability."""
_LEAST, _SURE, _ROOM = 0.85, 0.9995, 0.7


async def compare_candidates(how: Comparisons, count: int, compare: Compare, seed: int) -> Verdict:
    """A verdict over `count` candidates, by the comparisons that `how` names; of fewer than two, none."""
    if count < 2:
        return Verdict("no_signal", ())
    ask = adaptive if how == "adaptive" else all_pairs_both_seats
    return await ask(count, compare, seed)


async def all_pairs_both_seats(count: int, compare: Compare, seed: int) -> Verdict:
    """Compare every ordered pair of `count` candidates, all at once, and add the votes up."""
    seats = list(permutations(range(count), 2))
    random.Random(seed).shuffle(seats)
    votes, usage = await _ask(seats, compare)
    return tally(count, votes, usage, seed)


async def adaptive(count: int, compare: Compare, seed: int, confidence: float = CONFIDENCE) -> Verdict:
    """Compare in rounds, each sent at once, until best and worst are settled.

    A candidate may still be best while it has won every comparison, or while none was lost in both seats and
    nobody beats it with an estimated probability of `confidence`; the same from below for the worst. Each
    round pairs those that may, never the same two again: asking a judge at T=0 again teaches nothing. A judge
    without noise is done after 3w/2 - 2 comparisons, which is as few as both ends can be found with. Where
    the seats of a pair disagreed, the judge is noisy: then best and worst are compared with each other and
    with more of the others (see `_in_doubt`).
    """
    order = list(range(count))
    random.Random(seed).shuffle(order)
    standing = Standing.after(count, [])
    usage = Usage()
    while pairs := next_round(standing, order, confidence) or _in_doubt(standing, order):
        asked, cost = await _ask([seat for a, b in pairs for seat in ((a, b), (b, a))], compare)
        standing = Standing.after(count, [*standing.votes, *asked])
        usage += cost
    return settle(standing, usage, order)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the votes so far say: `good` are those of pairs that were answered in both seats, `beaten` the
    (winner, loser) of pairs that both seats agree on; `strengths` are fitted to the good ones."""

    votes: list[Vote]
    asked: set[frozenset[int]]
    good: list[Vote]
    beaten: list[tuple[int, int]]
    strengths: list[float]

    @classmethod
    def after(cls, count: int, votes: list[Vote]) -> Standing:
        """The standing of `count` candidates after `votes`."""
        good = answered(votes)
        asked = {frozenset((vote.first, vote.second)) for vote in votes}
        return cls(votes, asked, good, settled_pairs(good), bradley_terry(count, good))


def _in_doubt(standing: Standing, order: Sequence[int]) -> list[tuple[int, int]]:
    """What to ask once the ends are settled, if a pair's seats disagreed: best against worst, then each
    against the strongest and the weakest it has not met. Until best beats worst with an estimated probability
    of 0.85, and on to 0.9995 as long as no more than 0.7 of all pairs are asked."""
    asked, strengths, count = set(standing.asked), standing.strengths, len(order)
    if 2 * len(standing.beaten) == len(standing.good):
        return []
    best, worst = _ends(standing, order)
    margin = chance(strengths, best, worst)
    room = int(_ROOM * count * (count - 1) / 2) - len(asked) if margin >= _LEAST else 2
    if margin >= _SURE or room < 1 or best == worst:
        return []
    if frozenset((best, worst)) not in asked:
        return [(best, worst)]
    falling = sorted(order, key=lambda i: -round(strengths[i], 6))
    pairs: list[tuple[int, int]] = []
    for end, others in ((best, falling), (worst, falling[::-1])):
        new = [i for i in others if i != end and frozenset((end, i)) not in asked]
        if new and len(pairs) < room:
            pairs.append((end, new[0]))
            asked.add(frozenset((end, new[0])))
    return pairs


async def _ask(seats: Sequence[tuple[int, int]], compare: Compare) -> tuple[list[Vote], Usage]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(compare(first, second)) for first, second in seats]
    results = [task.result() for task in tasks]
    return [vote for vote, _ in results], sum((usage for _, usage in results), Usage())


def next_round(standing: Standing, order: Sequence[int], confidence: float) -> list[tuple[int, int]]:
    """The pairs to compare next, each candidate in one at most; none when both ends are settled."""
    asked, strengths = standing.asked, standing.strengths
    place = {candidate: rank for rank, candidate in enumerate(order)}
    above, below = contenders(standing, confidence)
    pairs: list[tuple[int, int]] = []
    busy: set[int] = set()
    for race, sign in ((above, -1), (below, 1)):
        left = sorted(race, key=lambda i: (sign * round(strengths[i], 6), place[i]))
        while left:
            one = left.pop(0)
            if one in busy:
                continue
            for other in left:
                if other not in busy and frozenset((one, other)) not in asked:
                    pairs.append((one, other))
                    busy |= {one, other}
                    break
    return pairs


def contenders(standing: Standing, confidence: float) -> tuple[list[int], list[int]]:
    """Who may still be best, and who worst."""
    gap = math.log(confidence / (1 - confidence))
    strengths = standing.strengths
    losers, winners = {loser for _, loser in standing.beaten}, {won for won, _ in standing.beaten}
    settled = {frozenset(pair) for pair in standing.beaten}
    unsure = {vote.first for vote in standing.good if frozenset((vote.first, vote.second)) not in settled}
    high, low = max(strengths), min(strengths)

    def may(i: int, behind: float, out: set[int]) -> bool:
        return i not in out and (behind < gap or i not in unsure)

    best = [i for i, own in enumerate(strengths) if may(i, high - own, losers)]
    worst = [i for i, own in enumerate(strengths) if may(i, own - low, winners)]
    return best, worst


def answered(votes: Sequence[Vote]) -> list[Vote]:
    """The votes of pairs that were answered in both seats."""
    by_seats = {(vote.first, vote.second): vote for vote in votes}
    failed = ("unparsed", "error")
    return [
        vote
        for vote in votes
        if vote.outcome not in failed
        and (other := by_seats.get((vote.second, vote.first))) is not None
        and other.outcome not in failed
    ]


def settled_pairs(votes: Sequence[Vote]) -> list[tuple[int, int]]:
    """(winner, loser) of every pair that both seats agree on."""
    by_seats = {(vote.first, vote.second): winner(vote) for vote in votes}
    return [
        (won, second if won == first else first)
        for (first, second), won in by_seats.items()
        if first < second and won is not None and by_seats.get((second, first)) == won
    ]


def winner(vote: Vote) -> int | None:
    """The candidate a vote is for; None for a tie or no answer."""
    return {"first": vote.first, "second": vote.second}.get(vote.outcome)


def settle(standing: Standing, usage: Usage, order: Sequence[int]) -> Verdict:
    """The strongest and the weakest candidate by Bradley-Terry, equal ones in `order`; no agreed pair was
    lost by the best or won by the worst, if there are such candidates. Scores are log-strengths. Status as
    in `tally`."""
    best, worst = _ends(standing, order)
    ends = (best, worst) if standing.beaten and best != worst else None
    return _verdict(standing, standing.strengths, ends, usage)


def _ends(standing: Standing, order: Sequence[int]) -> tuple[int, int]:
    strengths = standing.strengths
    losers, winners = {loser for _, loser in standing.beaten}, {won for won, _ in standing.beaten}
    unbeaten = [i for i in order if i not in losers] or list(order)
    unbeating = [i for i in order if i not in winners] or list(order)
    best = max(unbeaten, key=lambda i: round(strengths[i], 6))
    worst = min(unbeating, key=lambda i: round(strengths[i], 6))
    if strengths[best] - strengths[worst] <= 1e-9:  # the agreed pairs contradict the rest
        best = max(order, key=lambda i: round(strengths[i], 6))
        worst = min(order, key=lambda i: round(strengths[i], 6))
    return best, worst


def tally(count: int, votes: Sequence[Vote], usage: Usage, seed: int) -> Verdict:
    """Scores = consistent wins; best and worst by score, ties among several broken by seed.

    Status: if no pair was answered in both seats, "error" where every request failed and "unparsed"
    otherwise; "no_signal" if all scores are equal, or if over all seats the worst did no worse than the
    best; else "ok".
    """
    standing = Standing.after(count, list(votes))
    scores = [0.0] * count
    for won, _ in standing.beaten:
        scores[won] += 1
    if max(scores) == min(scores):
        return _verdict(standing, scores, None, usage)
    rng = random.Random(seed)
    best = rng.choice([i for i in range(count) if scores[i] == max(scores)])
    worst = rng.choice([i for i in range(count) if scores[i] == min(scores)])
    return _verdict(standing, scores, (best, worst), usage)


def _verdict(
    standing: Standing, scores: Sequence[float], ends: tuple[int, int] | None, usage: Usage
) -> Verdict:
    done = Verdict("no_signal", tuple(scores), votes=tuple(standing.votes), usage=usage)
    if not standing.good:
        failed = all(vote.outcome == "error" for vote in standing.votes)
        return replace(done, status="error" if failed else "unparsed")
    done = replace(done, values=among_siblings(standing.strengths))
    margin = chance(standing.strengths, *ends) if ends else 0.5
    if ends is None or margin <= 0.5 + 1e-9:
        return done
    return replace(done, status="ok", best=ends[0], worst=ends[1], margin=margin)
