"""Answers as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from stepagent.answers import answer_text, without_thoughts
from stepagent.graders.by_answer import AnswerGrader

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r"[\[{]")


class JsonGrader(AnswerGrader):
    """Grader of JSON: the last value that the solution holds equals the reference; the order of keys, white space and
    the spelling of numbers make no difference."""

    def answer(self, solution: str) -> str | None:
        """Return the JSON of the last fenced block, else the stated answer, else the last object or list in the text;
        None if none of them is JSON."""
        return next((text for text in _places(without_thoughts(solution)) if _is_json(text)), None)

    def same(self, first: str, second: str) -> bool:
        """See AnswerReader. Raises ValueError for a reference that is no JSON."""
        if not _is_json(second):
            raise ValueError("the reference is no JSON")
        return _is_json(first) and _equal(json.loads(first), json.loads(second))


def _places(text: str) -> Iterator[str]:
    """Yield the texts that may be the answer, the likeliest first."""
    yield from reversed(_FENCE.findall(text))
    yield answer_text(text) or ""
    decoder, place, values = json.JSONDecoder(), 0, list[str]()
    while opening := _OPENING.search(text, place):
        place = opening.end()
        try:
            _, place = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            continue
        values.append(text[opening.start() : place])
    yield from reversed(values)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _equal(first: object, second: object) -> bool:
    """Whether two values of JSON are equal; Python's own comparison takes true for 1."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(value, second[key]) for key, value in first.items())
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    return isinstance(first, bool) == isinstance(second, bool) and first == second
