"""From a score for each candidate to a verdict."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from stepagent.types import Usage, Verdict, VerdictStatus

Margin = Callable[[int, int], float]
"""(best, worst) -> the probability that best beats worst."""


def scored_verdict(
    scores: Sequence[float], margin: Margin, usage: Usage, seed: int, missing: VerdictStatus = "unparsed"
) -> Verdict:
    """The highest and the lowest score, equal ones broken by seed. A score that is nan could not be had: it
    is never best or worst; with fewer than two others the status is `missing`. Scores are in [0, 1]."""
    known = [i for i, score in enumerate(scores) if not math.isnan(score)]
    done = Verdict("no_signal", tuple(scores), usage=usage, values=tuple(scores))
    if len(known) < 2:
        return replace(done, status=missing) if len(scores) > 1 else done
    high, low = max(scores[i] for i in known), min(scores[i] for i in known)
    if high == low:
        return done
    rng = random.Random(seed)
    best = rng.choice([i for i in known if scores[i] == high])
    worst = rng.choice([i for i in known if scores[i] == low])
    return replace(done, status="ok", best=best, worst=worst, margin=margin(best, worst))


def by_errors(scores: Sequence[float], errors: Sequence[float]) -> Margin:
    """The chance that the best one's true score is above the worst one's, both normal with these standard
    errors."""

    def margin(best: int, worst: int) -> float:
        error = math.hypot(errors[best], errors[worst])
        return 0.5 * (1 + math.erf((scores[best] - scores[worst]) / error / math.sqrt(2)))

    return margin


def by_chances(chances: Sequence[float]) -> Margin:
    """Each chance is that of a right step: best beats worst if it alone is right, and half the time if both
    or neither is."""
    return lambda best, worst: 0.5 + (chances[best] - chances[worst]) / 2


def certain(best: int, worst: int) -> float:
    """What is known is not estimated."""
    return 1.0
