"""How sure a share is."""

from __future__ import annotations

import math


def wilson(part: int, whole: int) -> tuple[float, float]:
    """The 95 % interval of a share, in [0, 1] (Wilson 1927). `whole` is at least 1."""
    z, p = 1.96, part / whole
    centre = (p + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z * math.sqrt(p * (1 - p) / whole + z * z / (4 * whole * whole)) / (1 + z * z / whole)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def share(part: int, whole: int) -> str:
    """A share with its 95 % interval, as text."""
    if whole == 0:
        return "–"
    low, high = wilson(part, whole)
    return f"{100 * part / whole:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
