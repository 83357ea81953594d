"""Tell a reply from the thought that a reasoning model writes before it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stepagent.types import Prompt, Sampling, Thinking

_MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
_COMMON = ("<think>", "[THINK]", "<thought>")  # servers take four stop strings, and a step has one of its own
_FRAME = re.compile(r"<\|(?:START_RESPONSE|END_RESPONSE|START_TEXT|END_TEXT|return|start|message)\|>")
SWITCHES: Mapping[Thinking | None, Mapping[str, bool]] = {
    "off": {"enable_thinking": False, "thinking": False},
    "steps": {"enable_thinking": True, "thinking": True},
}
"""Variables of a chat template that ask for a thought or for none; one that does not know them ignores them."""


def without_thought(text: str) -> str | None:
    """Return a reply without the thought at its beginning; None if the thought does not end. A template may have
    opened the thought, so that the reply holds its end alone."""
    return split(text)[1]


def split(text: str) -> tuple[str, str | None]:
    """Return the thought at the beginning of a reply ("" if there is none) and the reply without it; see
    `without_thought`."""
    for opening, closing in _MARKS:
        thought, end, reply = text.partition(closing)
        begins = text.lstrip().startswith(opening)
        if end and (begins or opening not in thought):
            return thought.lstrip().removeprefix(opening), _FRAME.sub("", reply).lstrip()
        if begins:
            return thought.lstrip().removeprefix(opening), None
    return "", _FRAME.sub("", text) if _FRAME.search(text) else text


def opened_by(text: str) -> str | None:
    """Return the mark that opens a thought at the beginning of a reply; None if it opens none."""
    beginning = text.lstrip()
    return next((opening for opening, _ in _MARKS if beginning.startswith(opening)), None)


def left_open_by(context: str) -> str | None:
    """Return the mark of the thought that a context opens at its very end; None if it opens none."""
    ending = context.rstrip()
    return next((opening for opening, _ in _MARKS if ending.endswith(opening)), None)


def closing_of(opening: str) -> str:
    """Return the mark that closes the thought of an opening mark."""
    return dict(_MARKS)[opening]


def stops_of(prompt: Prompt, sampling: Sampling) -> tuple[str, ...]:
    """Return the texts that stop a sample. Before a first step one that opens a thought stops there, if the mark is a
    common one: its thought is drawn apart (hidden), or closed at once (off, which holds for whole solutions, too)."""
    apart = prompt.thinking == "off" or (prompt.thinking == "hidden" and sampling.stop)
    if prompt.prefix_text or not apart:
        return sampling.stop
    return (*sampling.stop, *_COMMON)
