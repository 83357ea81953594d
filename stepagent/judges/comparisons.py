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
from itertools import permutations
from typing import Literal

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
    votes: list[Vote] = []
    usage = Usage()
    while pairs := next_round(count, votes, order, confidence) or _in_doubt(count, votes, order):
        asked, cost = await _ask([seat for a, b in pairs for seat in ((a, b), (b, a))], compare)
        votes += asked
        usage += cost
    return settle(count, votes, usage, order)


def _in_doubt(count: int, votes: Sequence[Vote], order: Sequence[int]) -> list[tuple[int, int]]:
    """What to ask once the ends are settled, if a pair's seats disagreed: best against worst, then each
    against the strongest and the weakest it has not met. Until best beats worst with an estimated probability
    of 0.85, and on to 0.9995 as long as no more than 0.7 of all pairs are asked."""
    good = answered(votes)
    beaten = settled_pairs(good)
    asked = {frozenset((vote.first, vote.second)) for vote in votes}
    if 2 * len(beaten) == len(good):
        return []
    strengths = bradley_terry(count, good)
    best, worst = _ends(strengths, beaten, order)
    margin = 1 / (1 + math.exp(strengths[worst] - strengths[best]))
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


def next_round(
    count: int, votes: Sequence[Vote], order: Sequence[int], confidence: float
) -> list[tuple[int, int]]:
    """The pairs to compare next, each candidate in one at most; none when both ends are settled."""
    asked = {frozenset((vote.first, vote.second)) for vote in votes}
    good = answered(votes)
    strengths = bradley_terry(count, good)
    place = {candidate: rank for rank, candidate in enumerate(order)}
    above, below = contenders(strengths, good, confidence)
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


def contenders(
    strengths: Sequence[float], votes: Sequence[Vote], confidence: float
) -> tuple[list[int], list[int]]:
    """Who may still be best, and who worst."""
    gap = math.log(confidence / (1 - confidence))
    beaten = settled_pairs(votes)
    losers, winners = {loser for _, loser in beaten}, {won for won, _ in beaten}
    settled = {frozenset(pair) for pair in beaten}
    unsure = {vote.first for vote in votes if frozenset((vote.first, vote.second)) not in settled}
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


def settle(count: int, votes: Sequence[Vote], usage: Usage, order: Sequence[int]) -> Verdict:
    """The strongest and the weakest candidate by Bradley-Terry, equal ones in `order`; no agreed pair was
    lost by the best or won by the worst, if there are such candidates. Scores are log-strengths. Status as
    in `tally`."""
    good = answered(votes)
    strengths = bradley_terry(count, good)
    done = (tuple(strengths), None, None, None, tuple(votes), usage)
    if not good:
        failed = all(vote.outcome == "error" for vote in votes)
        return Verdict("error" if failed else "unparsed", *done)
    beaten = settled_pairs(good)
    best, worst = _ends(strengths, beaten, order)
    margin = 1 / (1 + math.exp(strengths[worst] - strengths[best]))
    if not beaten or margin <= 0.5 + 1e-9:
        return Verdict("no_signal", *done)
    return Verdict("ok", tuple(strengths), best, worst, margin, tuple(votes), usage)


def _ends(
    strengths: Sequence[float], beaten: Sequence[tuple[int, int]], order: Sequence[int]
) -> tuple[int, int]:
    losers, winners = {loser for _, loser in beaten}, {won for won, _ in beaten}
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
    good = answered(votes)
    scores = [0.0] * count
    for won, _ in settled_pairs(good):
        scores[won] += 1
    done = (tuple(scores), None, None, None, tuple(votes), usage)
    if not good:
        failed = all(vote.outcome == "error" for vote in votes)
        return Verdict("error" if failed else "unparsed", *done)
    if max(scores) == min(scores):
        return Verdict("no_signal", *done)
    rng = random.Random(seed)
    best = rng.choice([i for i in range(count) if scores[i] == max(scores)])
    worst = rng.choice([i for i in range(count) if scores[i] == min(scores)])
    strengths = bradley_terry(count, good)
    margin = 1 / (1 + math.exp(strengths[worst] - strengths[best]))
    if margin <= 0.5:
        return Verdict("no_signal", *done)
    return Verdict("ok", tuple(scores), best, worst, margin, tuple(votes), usage)


def bradley_terry(count: int, votes: Sequence[Vote], prior: float = 0.5) -> list[float]:
    """Log-strengths that explain the votes (Bradley and Terry 1952), so that the estimated probability
    that i beats j is sigmoid(s_i - s_j). A tie is half a win each, a vote with a probability that share of
    one; votes that failed do not belong here.

    `prior` adds that many wins and losses against a candidate of strength 0: it keeps a clean sweep
    finite and one vote modest. Fitted by Newton's method: the log-likelihood is concave.
    """
    wins = [prior] * count
    met = [[0.0] * count for _ in range(count)]
    for vote in votes:
        met[vote.first][vote.second] += 1
        met[vote.second][vote.first] += 1
        share = vote.probability
        if share is None:
            share = {"first": 1.0, "second": 0.0}.get(vote.outcome, 0.5)
        wins[vote.first] += share
        wins[vote.second] += 1 - share
    strengths = [0.0] * count
    for _ in range(50):
        slope = list(wins)
        curve = [[0.0] * count for _ in range(count)]
        for i, own in enumerate(strengths):
            opponents = [(j, other, met[i][j]) for j, other in enumerate(strengths) if met[i][j]]
            for j, other, meetings in [*opponents, (i, 0.0, 2 * prior)]:
                chance = 1 / (1 + math.exp(other - own))
                slope[i] -= meetings * chance
                bend = meetings * chance * (1 - chance)
                curve[i][i] += bend
                if j != i:
                    curve[i][j] -= bend
        step = _solve(curve, slope)
        strengths = [own + max(-1.0, min(1.0, move)) for own, move in zip(strengths, step, strict=True)]
        if max(map(abs, step)) < 1e-10:
            break
    return strengths


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """x of matrix x = right, for a symmetric positive definite matrix (Gaussian elimination)."""
    count = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(count):
        for j in range(i + 1, count):
            if factor := rows[j][i] / rows[i][i]:
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    found = [0.0] * count
    for i in reversed(range(count)):
        known = sum(rows[i][j] * found[j] for j in range(i + 1, count))
        found[i] = (rows[i][count] - known) / rows[i][i]
    return found
