"""Verdicts from one score per candidate."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from stepagent.types import Usage, Verdict, VerdictStatus

Margin = Callable[[int, int], float]
"""(best, worst) -> the probability that best beats worst."""


def scored_verdict(
    scores: Sequence[float],
    margin: Margin,
    usage: Usage,
    *,
    seed: int,
    missing: VerdictStatus = "unparsed",
    error: str = "",
) -> Verdict:
    """Return the verdict with the highest and the lowest of `scores` (each in [0, 1]), ties broken by seed.

    A candidate without a score (nan) is never best or worst; if fewer than two have one, the status is
    `missing`. If all scores are equal, or there is one candidate, it is "no_signal". `error` is the reason why a
    score is missing, for the verdict to carry.
    """
    indices = [i for i, score in enumerate(scores) if not math.isnan(score)]
    verdict = Verdict("no_signal", tuple(scores), usage=usage, values=tuple(scores), error=error)
    if len(indices) < 2:
        return replace(verdict, status=missing) if len(scores) > 1 else verdict
    high, low = max(scores[i] for i in indices), min(scores[i] for i in indices)
    if high == low:
        return verdict
    rng = random.Random(seed)
    best = rng.choice([i for i in indices if scores[i] == high])
    worst = rng.choice([i for i in indices if scores[i] == low])
    return replace(verdict, status="ok", best=best, worst=worst, margin=margin(best, worst))


def by_errors(scores: Sequence[float], errors: Sequence[float]) -> Margin:
    """Return the margin for uncertain scores: the probability that the true score of best is above that of
    worst, both normal with the given standard errors."""

    def margin(best: int, worst: int) -> float:
        error = math.hypot(errors[best], errors[worst])
        return 0.5 * (1 + math.erf((scores[best] - scores[worst]) / error / math.sqrt(2)))

    return margin


def by_chances(chances: Sequence[float]) -> Margin:
    """Return the margin for chances that a step is right: best beats worst if it alone is right, and half the
    time if both or neither is."""
    return lambda best, worst: 0.5 + (chances[best] - chances[worst]) / 2


def certain(best: int, worst: int) -> float:
    """Return the margin for scores that are exact: 1."""
    return 1.0
