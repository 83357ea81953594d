"""Leaves out of a config whatever may be a key: a report is a file to send to others."""

from __future__ import annotations

import re
from typing import Any

LEFT_OUT = "(left out: it may hold a key)"
_PRIVATE = frozenset({"headers", "extra_body"})
"""Settings that go with every request; all their values are left out."""
_KEY = re.compile(r"(?i)^-*(?:\w*[-_])?(?:api[-_]?key|key|token|secret|password|passwd|authorization|credentials?)$")
_ASSIGNED = re.compile(r"(?i)^([\w-]*(?:key|token|secret|password|credentials?))=.+", re.DOTALL)
_ADDRESS = re.compile(r"(?<=//)[^/@\s]+(?=@)")


def without_keys(value: Any) -> Any:
    """Return plain data of the same shape, without values that are, or may hold, a key: those of headers and further
    fields, those whose name says so, the words of a command after such a name, a name and password in an address."""
    if isinstance(value, dict):
        return {name: _masked(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list):
        before = [None, *value]
        return [LEFT_OUT if _is_flag(word) else without_keys(item) for word, item in zip(before, value, strict=False)]
    if isinstance(value, str):
        return _ADDRESS.sub(LEFT_OUT, _ASSIGNED.sub(rf"\1={LEFT_OUT}", value))
    return value


def _is_flag(word: object) -> bool:
    return isinstance(word, str) and word.startswith("-") and _KEY.match(word) is not None


def _masked(name: str, value: Any) -> Any:
    if value is None or not (name in _PRIVATE or _KEY.match(name)):
        return without_keys(value)
    return dict.fromkeys(value, LEFT_OUT) if isinstance(value, dict) else LEFT_OUT
