"""Parameters that an endpoint refuses: left out or narrowed, one at a time, and said once."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

_LIMITS = ("max_completion_tokens", "max_tokens")
_PARAMETERS = ("top_logprobs", "temperature", "top_p", "seed", "stop", *_LIMITS)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_BOUND = re.compile(
    r"(?:at most|up to|maximum(?: (?:of|is))?|<=|≤|less than or equal to|no more than)\s*(\d+(?:\.\d+)?)"
)
_LEAST_TEMPERATURE = 0.01  # for servers that take none of 0: the likeliest token all but always
_log = logging.getLogger("stepagent")


class Concessions:
    """The values with which `name`, an endpoint, is asked in place of those that it has refused."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bounds: dict[str, float] = {}
        self._left_out: set[str] = set()

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's body without the parameters that are refused, and with the others within their bounds."""
        request = {key: value for key, value in body.items() if key not in self._left_out}
        for key, bound in self._bounds.items():
            if key == "temperature" and key in request:
                request[key] = max(request[key], bound)
            elif key in request:
                request[key] = min(request[key], int(bound))
        return request

    def learn(self, words: str, body: Mapping[str, Any]) -> bool:
        """Take note of a refusal with these words of a request with this body. Returns whether another request may
        succeed: whether the words name a parameter of it that can be left out or narrowed."""
        name = self._named(words, body)
        if name is None:
            return False
        value, bound = body[name], _bound(name, words, body[name])
        if bound is not None:
            self._bounds[name] = bound
            _log.warning("%s takes no %s of %s: %g is sent (%s)", self._name, name, value, bound, words[:160])
        elif name in _LIMITS:
            return False
        else:
            self._left_out.add(name)
            if not (name == "top_p" and value == 1):  # all of the distribution, which is what leaving it out means
                _log.warning("%s takes no %s of %s: it is left out (%s)", self._name, name, value, words[:160])
        return True

    def _named(self, words: str, body: Mapping[str, Any]) -> str | None:
        names = [name for name in _PARAMETERS if name in body and re.search(rf"(?<!\w){name}(?!\w)", words)]
        if {"temperature", "top_p"} <= set(names) and re.search(r"\bboth\b|only one", words):
            return "top_p"
        if not names and re.search(r"(?<!\w)max_(?:completion_)?tokens(?!\w)", words):
            names = [name for name in _LIMITS if name in body]
        return names[0] if names else None


def _bound(name: str, words: str, value: Any) -> float | None:
    """Return the value within the bound that a refusal's words name, or None if they name none that would do."""
    if name == "temperature":
        return _LEAST_TEMPERATURE if value == 0 else None
    if name not in ("top_logprobs", *_LIMITS):
        return None
    stated = [float(number) for number in _BOUND.findall(words) or _NUMBER.findall(words)]
    return max((number for number in stated if 0 < number < value), default=None)
