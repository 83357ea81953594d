"""Tell a reply from the thought that a reasoning model writes before it."""

from __future__ import annotations

import re

_MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
_FRAME = re.compile(r"<\|(?:START_RESPONSE|END_RESPONSE|START_TEXT|END_TEXT|return|start|message)\|>")


def without_thought(text: str) -> str | None:
    """Return a reply without the thought at its beginning; None if the thought does not end. A template may have
    opened the thought, so that the reply holds its end alone."""
    for opening, closing in _MARKS:
        thought, end, reply = text.partition(closing)
        begins = text.lstrip().startswith(opening)
        if end and (begins or opening not in thought):
            return _FRAME.sub("", reply).lstrip()
        if begins:
            return None
    return _FRAME.sub("", text) if _FRAME.search(text) else text
