"""From pairwise votes to a verdict: which comparisons are made, in which seats, and what they add up to.

All pairs, both seats, is the paper's (arXiv 2503.03746, Eq. 2): w(w-1) comparisons. A vote counts only if
both seats agree on the content; a judge that always prefers one seat therefore gives no signal.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from itertools import combinations, permutations

from stepagent.types import Usage, Verdict, Vote

Compare = Callable[[int, int], Coroutine[None, None, tuple[Vote, Usage]]]
"""(candidate in the first seat, candidate in the second) -> the vote and what it cost."""


async def all_pairs_both_seats(count: int, compare: Compare, seed: int) -> Verdict:
    """Compare every ordered pair of `count` candidates, all at once, and add the votes up."""
    seats = list(permutations(range(count), 2))
    random.Random(seed).shuffle(seats)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(compare(first, second)) for first, second in seats]
    results = [task.result() for task in tasks]
    usage = sum((usage for _, usage in results), Usage())
    return tally(count, [vote for vote, _ in results], usage, seed)


def winner(vote: Vote) -> int | None:
    """The candidate a vote is for; None for a tie or no answer."""
    return {"first": vote.first, "second": vote.second}.get(vote.outcome)


def tally(count: int, votes: Sequence[Vote], usage: Usage, seed: int) -> Verdict:
    """Scores = consistent wins; best and worst by score, ties among several broken by seed.

    Status: if no pair was answered in both seats, "error" where every request failed and "unparsed"
    otherwise; "no_signal" if all scores are equal, or if over all seats the worst did no worse than the
    best; else "ok".
    """
    by_seats = {(vote.first, vote.second): vote for vote in votes}
    scores = [0.0] * count
    answered: list[Vote] = []
    for one, other in combinations(range(count), 2):
        pair = [by_seats.get((one, other)), by_seats.get((other, one))]
        if any(vote is None or vote.outcome in ("unparsed", "error") for vote in pair):
            continue
        votes_of_pair = [vote for vote in pair if vote]
        answered += votes_of_pair
        winners = {winner(vote) for vote in votes_of_pair}
        if len(winners) == 1 and (won := winners.pop()) is not None:
            scores[won] += 1
    done = (tuple(scores), None, None, None, tuple(votes), usage)
    if not answered:
        failed = all(vote.outcome == "error" for vote in votes)
        return Verdict("error" if failed else "unparsed", *done)
    if max(scores) == min(scores):
        return Verdict("no_signal", *done)
    rng = random.Random(seed)
    best = rng.choice([i for i in range(count) if scores[i] == max(scores)])
    worst = rng.choice([i for i in range(count) if scores[i] == min(scores)])
    strengths = bradley_terry(count, answered)
    margin = 1 / (1 + math.exp(strengths[worst] - strengths[best]))
    if margin <= 0.5:
        return Verdict("no_signal", *done)
    return Verdict("ok", tuple(scores), best, worst, margin, tuple(votes), usage)


def bradley_terry(count: int, votes: Sequence[Vote], prior: float = 0.5) -> list[float]:
    """Log-strengths that explain the votes (Bradley and Terry 1952), so that the estimated probability
    that i beats j is sigmoid(s_i - s_j). A tie is half a win each; votes that failed do not belong here.

    `prior` adds that many wins and losses against a candidate of strength 0: it keeps a clean sweep
    finite and one vote modest. Fitted with Hunter's MM updates (2004).
    """
    wins = [prior] * count
    meetings = [[0.0] * count for _ in range(count)]
    for vote in votes:
        meetings[vote.first][vote.second] += 1
        meetings[vote.second][vote.first] += 1
        won = winner(vote)
        for seat in (vote.first, vote.second):
            wins[seat] += 0.5 if won is None else float(seat == won)
    strength = [1.0] * count
    for _ in range(1000):
        before = strength
        strength = [
            wins[i]
            / (
                2 * prior / (before[i] + 1)
                + sum(meetings[i][j] / (before[i] + before[j]) for j in range(count))
            )
            for i in range(count)
        ]
        if max(abs(new - old) for new, old in zip(strength, before, strict=True)) < 1e-9:
            break
    return [math.log(value) for value in strength]
