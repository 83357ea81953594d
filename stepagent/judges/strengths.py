"""Strengths of candidates from uneven numbers of comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepagent.types import Vote


def chance(strengths: Sequence[float], candidate: int, rival: int) -> float:
    """Return the estimated probability that `candidate` beats `rival`."""
    return 1 / (1 + math.exp(strengths[rival] - strengths[candidate]))


def among_siblings(strengths: Sequence[float]) -> tuple[float, ...]:
    """Return for each candidate the estimated probability that it beats a random other candidate."""
    count = len(strengths)
    return tuple(sum(chance(strengths, i, j) for j in range(count) if j != i) / max(1, count - 1) for i in range(count))


def bradley_terry(count: int, votes: Sequence[Vote], prior: float = 0.5) -> list[float]:
    """Return the log-strengths s that fit the votes best (Bradley and Terry 1952): i beats j with probability
    sigmoid(s_i - s_j).

    A tie counts as half a win each, a vote with a probability as that share of a win; the caller leaves out
    votes that failed. `prior` adds as many wins and losses against a candidate of strength 0: it keeps
    the strength of a candidate that won everything finite, and the effect of a single vote small. Fitted by
    Newton's method, as the log-likelihood is concave; Hunter's MM iteration (Annals of Statistics 2004)
    needs no matrix but takes about ten times as long at this precision.
    """
    wins = [prior] * count
    meetings = [[0.0] * count for _ in range(count)]
    for vote in votes:
        meetings[vote.first][vote.second] += 1
        meetings[vote.second][vote.first] += 1
        share = vote.probability
        if share is None:
            share = {"first": 1.0, "second": 0.0}.get(vote.outcome, 0.5)
        wins[vote.first] += share
        wins[vote.second] += 1 - share
    strengths = [0.0] * count
    for _ in range(50):
        slope = list(wins)
        curve = [[0.0] * count for _ in range(count)]
        for i, strength in enumerate(strengths):
            opponents = [(j, rival, meetings[i][j]) for j, rival in enumerate(strengths) if meetings[i][j]]
            for j, rival, games in [*opponents, (i, 0.0, 2 * prior)]:
                chance = 1 / (1 + math.exp(rival - strength))
                slope[i] -= games * chance
                bend = games * chance * (1 - chance)
                curve[i][i] += bend
                if j != i:
                    curve[i][j] -= bend
        step = _solve(curve, slope)
        # Capped: a full step from a flat start can overshoot where a candidate won everything.
        strengths = [value + max(-1.0, min(1.0, move)) for value, move in zip(strengths, step, strict=True)]
        if max(map(abs, step)) < 1e-10:
            break
    return strengths


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Return x with `matrix` x = `right`, for a symmetric positive definite matrix (Gaussian elimination).

    No row is exchanged, which such a matrix does not need. numpy is not among the core dependencies.
    """
    count = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(count):
        for j in range(i + 1, count):
            if factor := rows[j][i] / rows[i][i]:
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    solution = [0.0] * count
    for i in reversed(range(count)):
        later_terms = sum(rows[i][j] * solution[j] for j in range(i + 1, count))
        solution[i] = (rows[i][count] - later_terms) / rows[i][i]
    return solution
