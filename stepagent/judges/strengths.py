"""How strong each candidate is, from uneven numbers of comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepagent.types import Vote


def chance(strengths: Sequence[float], one: int, other: int) -> float:
    """The estimated probability that `one` beats `other`."""
    return 1 / (1 + math.exp(strengths[other] - strengths[one]))


def among_siblings(strengths: Sequence[float]) -> tuple[float, ...]:
    """For each candidate the estimated probability that it beats one of the others, drawn at random."""
    count = len(strengths)
    return tuple(
        sum(chance(strengths, i, j) for j in range(count) if j != i) / max(1, count - 1) for i in range(count)
    )


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
