"""The choice of comparisons among candidates, and the verdict that their votes add up to.

all_pairs   every pair in both positions, as in the paper (arXiv 2503.03746, Eq. 2): w(w-1) comparisons
adaptive    rounds of comparisons, in both positions, only among candidates that may still be best or worst

A win counts only if the judge names the same candidate in both positions. A judge with a full position bias
therefore gives no signal.
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
"""(candidate in the first position, candidate in the second) -> the vote and its cost."""

Comparisons = Literal["adaptive", "all_pairs"]
CONFIDENCE = 0.8
"""An unsure candidate leaves the race for best once another beats it with this estimated probability."""
_MARGIN_WANTED, _MARGIN_SURE, _SHARE_OF_PAIRS = 0.85, 0.9995, 0.7


async def compare_candidates(comparisons: Comparisons, count: int, compare: Compare, *, seed: int) -> Verdict:
    """Return the verdict over `count` candidates; of fewer than two it is "no_signal" without scores."""
    if count < 2:
        return Verdict("no_signal", ())
    ask = adaptive if comparisons == "adaptive" else all_pairs
    return await ask(count, compare, seed)


async def all_pairs(count: int, compare: Compare, seed: int) -> Verdict:
    """Compare every ordered pair of `count` candidates, all at once, and return the tally."""
    ordered_pairs = list(permutations(range(count), 2))
    random.Random(seed).shuffle(ordered_pairs)
    votes, usage = await _ask(ordered_pairs, compare)
    return tally(count, votes, usage, seed=seed)


async def adaptive(count: int, compare: Compare, seed: int, *, confidence: float = CONFIDENCE) -> Verdict:
    """Compare in rounds until best and worst are settled, and return the verdict.

    `contenders` says which candidates are still in the race for best or for worst. A round pairs candidates
    of the same race and sends all its requests at once. No pair is compared twice, because a judge at
    temperature 0 repeats its answer. A judge without noise needs 3w/2 - 2 pairs, the fewest from which both
    ends can be found. A pair on which the two positions disagree shows that the judge is noisy; then
    `_in_doubt` compares best and worst with each other and with more of the other candidates.
    """
    order = list(range(count))
    random.Random(seed).shuffle(order)
    standing = Standing.after(count, [])
    usage = Usage()
    while pairs := next_round(standing, order, confidence) or _in_doubt(standing, order):
        votes, cost = await _ask([positions for a, b in pairs for positions in ((a, b), (b, a))], compare)
        standing = Standing.after(count, [*standing.votes, *votes])
        usage += cost
    return settle(standing, usage, order)


@dataclass(frozen=True, slots=True)
class Standing:
    """State of the race after some votes.

    `pairs` are the pairs compared so far, `usable` the votes of pairs that were answered in both positions,
    `wins` the (winner, loser) of pairs on which both positions agree, `strengths` the Bradley-Terry
    log-strengths of all candidates, fitted to the usable votes.
    """

    votes: list[Vote]
    pairs: set[frozenset[int]]
    usable: list[Vote]
    wins: list[tuple[int, int]]
    strengths: list[float]

    @classmethod
    def after(cls, count: int, votes: list[Vote]) -> Standing:
        """Return the standing of `count` candidates after `votes`."""
        usable = answered(votes)
        pairs = {frozenset((vote.first, vote.second)) for vote in votes}
        return cls(votes, pairs, usable, settled_pairs(usable), bradley_terry(count, usable))


def _in_doubt(standing: Standing, order: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs to compare once both races are over, if the two positions of some pair disagreed.

    First best against worst; then best against the strongest and worst against the weakest candidate that it
    has not met. This goes on until best beats worst with an estimated probability of 0.85, and further, up to
    0.9995, while no more than 0.7 of all pairs have been compared.
    """
    compared, strengths, count = set(standing.pairs), standing.strengths, len(order)
    # Each agreed pair has two usable votes: if all pairs agree, the judge shows no noise to average out.
    if 2 * len(standing.wins) == len(standing.usable):
        return []
    best, worst = _ends(standing, order)
    margin = chance(strengths, best, worst)
    # Below the wanted margin a level costs what it takes, two pairs a round; above it the cost is capped.
    room = int(_SHARE_OF_PAIRS * count * (count - 1) / 2) - len(compared) if margin >= _MARGIN_WANTED else 2
    if margin >= _MARGIN_SURE or room < 1 or best == worst:
        return []
    # The direct comparison says most about the pair that is trained on.
    if frozenset((best, worst)) not in compared:
        return [(best, worst)]
    falling = sorted(order, key=lambda i: -round(strengths[i], 6))
    pairs: list[tuple[int, int]] = []
    # The nearest rival is the one that an end may be confused with.
    for end, rivals in ((best, falling), (worst, falling[::-1])):
        strangers = [i for i in rivals if i != end and frozenset((end, i)) not in compared]
        if strangers and len(pairs) < room:
            pairs.append((end, strangers[0]))
            compared.add(frozenset((end, strangers[0])))
    return pairs


async def _ask(ordered_pairs: Sequence[tuple[int, int]], compare: Compare) -> tuple[list[Vote], Usage]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(compare(first, second)) for first, second in ordered_pairs]
    results = [task.result() for task in tasks]
    return [vote for vote, _ in results], sum((usage for _, usage in results), Usage())


def next_round(standing: Standing, order: Sequence[int], confidence: float) -> list[tuple[int, int]]:
    """Return the pairs to compare next, each candidate in at most one; none once both races are over."""
    strengths = standing.strengths
    rank_in_order = {candidate: rank for rank, candidate in enumerate(order)}
    above, below = contenders(standing, confidence)
    pairs: list[tuple[int, int]] = []
    # One pair a candidate and round: its result may end the race for it and save the next comparison.
    busy: set[int] = set()
    for race, sign in ((above, -1), (below, 1)):
        # Rounded, so that the fit's last digits do not decide which of two equal candidates comes first.
        queue = sorted(race, key=lambda i: (sign * round(strengths[i], 6), rank_in_order[i]))
        # Neighbours in strength are paired: a comparison of unlike candidates would teach less.
        while queue:
            candidate = queue.pop(0)
            if candidate in busy:
                continue
            for rival in queue:
                if rival not in busy and frozenset((candidate, rival)) not in standing.pairs:
                    pairs.append((candidate, rival))
                    busy |= {candidate, rival}
                    break
    return pairs


def contenders(standing: Standing, confidence: float) -> tuple[list[int], list[int]]:
    """Return the candidates that may still be best, and those that may still be worst.

    A candidate leaves the race for best when it has lost an agreed pair, or when it is unsure (the positions
    of one of its pairs disagreed) and the strongest candidate beats it with an estimated probability of
    `confidence` or more. The race for worst is the mirror image.
    """
    gap = math.log(confidence / (1 - confidence))
    strengths = standing.strengths
    losers, winners = {loser for _, loser in standing.wins}, {winner for winner, _ in standing.wins}
    agreed_pairs = {frozenset(pair) for pair in standing.wins}
    # The usable votes hold every pair in both orders, so `vote.first` alone reaches both its candidates.
    unsure = {vote.first for vote in standing.usable if frozenset((vote.first, vote.second)) not in agreed_pairs}
    high, low = max(strengths), min(strengths)

    # Strength alone eliminates only unsure candidates: one that is behind merely because it was compared
    # less has not been shown to be worse.
    def in_race(i: int, distance: float, eliminated: set[int]) -> bool:
        return i not in eliminated and (distance < gap or i not in unsure)

    best = [i for i, strength in enumerate(strengths) if in_race(i, high - strength, losers)]
    worst = [i for i, strength in enumerate(strengths) if in_race(i, strength - low, winners)]
    return best, worst


def answered(votes: Sequence[Vote]) -> list[Vote]:
    """Return the votes of pairs that were answered in both positions."""
    by_order = {(vote.first, vote.second): vote for vote in votes}
    failed = ("unparsed", "error")
    return [
        vote
        for vote in votes
        if vote.outcome not in failed
        and (swapped := by_order.get((vote.second, vote.first))) is not None
        and swapped.outcome not in failed
    ]


def settled_pairs(votes: Sequence[Vote]) -> list[tuple[int, int]]:
    """Return (winner, loser) of every pair on which both positions agree."""
    by_order = {(vote.first, vote.second): winner(vote) for vote in votes}
    return [
        (choice, second if choice == first else first)
        for (first, second), choice in by_order.items()
        if first < second and choice is not None and by_order.get((second, first)) == choice
    ]


def winner(vote: Vote) -> int | None:
    """Return the candidate that a vote is for; None for a tie or no answer."""
    return {"first": vote.first, "second": vote.second}.get(vote.outcome)


def settle(standing: Standing, usage: Usage, order: Sequence[int]) -> Verdict:
    """Return the verdict with the strongest and the weakest candidate by Bradley-Terry.

    Ties are broken by `order`. The best lost no agreed pair and the worst won none, where there are such
    candidates. Scores are log-strengths. Status as in `tally`.
    """
    best, worst = _ends(standing, order)
    ends = (best, worst) if standing.wins and best != worst else None
    return _verdict(standing, standing.strengths, ends, usage=usage)


def _ends(standing: Standing, order: Sequence[int]) -> tuple[int, int]:
    strengths = standing.strengths
    losers, winners = {loser for _, loser in standing.wins}, {winner for winner, _ in standing.wins}
    without_loss = [i for i in order if i not in losers] or list(order)
    without_win = [i for i in order if i not in winners] or list(order)
    best = max(without_loss, key=lambda i: round(strengths[i], 6))
    worst = min(without_win, key=lambda i: round(strengths[i], 6))
    if strengths[best] - strengths[worst] <= 1e-9:  # the agreed pairs contradict the rest
        best = max(order, key=lambda i: round(strengths[i], 6))
        worst = min(order, key=lambda i: round(strengths[i], 6))
    return best, worst


def tally(count: int, votes: Sequence[Vote], usage: Usage, *, seed: int) -> Verdict:
    """Return the verdict whose scores are the wins on which both positions agree.

    Best and worst are by score, ties broken by seed. Status: if no pair was answered in both positions,
    "error" where every request failed and "unparsed" otherwise; "no_signal" if all scores are equal, or if
    the worst did no worse than the best over all votes; else "ok".
    """
    standing = Standing.after(count, list(votes))
    scores = [0.0] * count
    for candidate, _ in standing.wins:
        scores[candidate] += 1
    if max(scores) == min(scores):
        return _verdict(standing, scores, None, usage=usage)
    rng = random.Random(seed)
    best = rng.choice([i for i in range(count) if scores[i] == max(scores)])
    worst = rng.choice([i for i in range(count) if scores[i] == min(scores)])
    return _verdict(standing, scores, (best, worst), usage=usage)


def _verdict(standing: Standing, scores: Sequence[float], ends: tuple[int, int] | None, *, usage: Usage) -> Verdict:
    verdict = Verdict("no_signal", tuple(scores), votes=tuple(standing.votes), usage=usage)
    if not standing.usable:
        failures = [vote.reply for vote in standing.votes if vote.outcome == "error"]
        if len(failures) == len(standing.votes):
            return replace(verdict, status="error", error=next(iter(failures), "nothing was compared"))
        return replace(verdict, status="unparsed")
    verdict = replace(verdict, values=among_siblings(standing.strengths))
    margin = chance(standing.strengths, *ends) if ends else 0.5
    if ends is None or margin <= 0.5 + 1e-9:
        return verdict
    return replace(verdict, status="ok", best=ends[0], worst=ends[1], margin=margin)
