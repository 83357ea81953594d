"""Texts that nobody should learn from."""

from __future__ import annotations

import re

_MOJIBAKE = re.compile("\ufffd|\u00c3[\x80-\xbf]|\u00e2\u20ac[\x80-\xbf\u2122\u0153\u201c\u201d]")


_LONE = re.compile("[\ud800-\udfff]")  # half a character, which JSON can hold and no file


LONGEST = 100_000  # characters of a solution


def unusable_text(text: str) -> str | None:
    """Return the reason why nothing should be learnt from a text (too long, or decoded wrongly), or None."""
    if len(text) > LONGEST:
        return f"longer than {LONGEST:,} characters"
    return "broken characters" if _MOJIBAKE.search(text) or _LONE.search(text) else None
