"""The last words of a judge's reply: marks, brackets, tags and end tokens around a verdict are no text."""

from __future__ import annotations

import html
import re

_CLOSING = re.compile(r"""(?:\s|[.!。！*_`"'”’)\]}$]|</?\w+>|<\|[^|<>]*\|>|</s>|\\[)\]])*\Z""")
_SENTENCE_END = re.compile(r"[.!?。！？\n]")


def is_closing(text: str) -> bool:
    """Return whether a text only closes what came before: full stops, markup, brackets, tags, end tokens."""
    return _CLOSING.match(text) is not None


def without_closing(text: str) -> str:
    """Return a text without what closes it."""
    return _CLOSING.sub("", text)


def last_sentence(text: str) -> str:
    """Return what follows the last end of a sentence in a text."""
    return _SENTENCE_END.split(text)[-1]


def label_pattern(label: str) -> re.Pattern[str]:
    """Return the pattern of a verdict label, such as [[A]]: capital or not, with or without blanks in its brackets."""
    inner = re.sub(r"(?<=\[)(?=\w)|(?<=\w)(?=\\\])", lambda _: r"\s*", re.escape(label))
    return re.compile(inner, re.IGNORECASE)


def unescaped(text: str) -> str:
    """Return a text whose &gt; and the like are characters again."""
    return html.unescape(text)
