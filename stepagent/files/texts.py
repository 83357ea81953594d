"""Texts from which nothing should be learnt."""

from __future__ import annotations

import re

from stepagent.files.values import has_half_character

_MOJIBAKE = re.compile("\ufffd|\u00c3[\x80-\xbf]|\u00e2\u20ac[\x80-\xbf\u2122\u0153\u201c\u201d]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ESCAPES = re.compile(r"\t(?:imes|ext|heta|frac|riangle|an\b|au\b)|\r(?:ho\b|ight|angle)|\n(?:eq\b|abla\b|otin\b)")
LONGEST = 100_000  # characters of a solution


def unusable_text(text: str) -> str | None:
    """Return the reason why nothing should be learnt from a text (too long, or decoded wrongly), or None."""
    if len(text) > LONGEST:
        return f"longer than {LONGEST:,} characters"
    if _MOJIBAKE.search(text) or has_half_character(text):
        return "broken characters"
    if _CONTROL.search(text) or _ESCAPES.search(text):
        return "broken escapes: a LaTeX backslash was read as a control character"
    return None
