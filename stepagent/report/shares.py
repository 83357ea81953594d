"""Confidence intervals of shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepagent.console import percent


def wilson(part: int, whole: int) -> tuple[float, float]:
    """Return the 95 % interval of `part` / `whole`, in [0, 1] (Wilson 1927). `whole` is at least 1."""
    z, p = 1.96, part / whole
    centre = (p + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z * math.sqrt(p * (1 - p) / whole + z * z / (4 * whole * whole)) / (1 + z * z / whole)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def share(part: int, whole: int) -> str:
    """Return a share with its 95 % interval in percent, as text; a dash if `whole` is 0."""
    if whole == 0:
        return percent(None)
    low, high = wilson(part, whole)
    return f"{percent(part / whole)} ({100 * low:.1f} to {100 * high:.1f})"


def paired_gain(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float, float]:
    """Return the share of `second` minus that of `first`, on the same items, and its 95 % interval (Bonett and Price
    2012: Wald's, with an item gained and one lost added, so that a few items that all agree are no certainty). Both
    have the same length, at least 1."""
    count = len(first)
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    rise, fall = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = 1.96 * math.sqrt((rise + fall - (rise - fall) ** 2) / (count + 2))
    return (gained - lost) / count, max(-1.0, rise - fall - half), min(1.0, rise - fall + half)
