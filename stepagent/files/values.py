"""Cells of foreign files as text: an answer, an id or a question reads the same from JSON, CSV and Parquet."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_LIST = re.compile(rf"\[\s*{_STRING}(?:\s*,\s*{_STRING})*\s*\]", re.DOTALL)
_MISSING = frozenset({"", "nan", "null"})
_LONGEST_WORD = 5
_TRUTH = {word: word.lower() for word in ("True", "TRUE", "False", "FALSE")}

HALF_CHARACTER = "half a surrogate pair, which is no character; mend or remove it"


class Numeral(float):
    """A number of a JSON file that is written otherwise than Python writes it, such as 1e3 or 0.10."""

    __slots__ = ("spelling",)
    spelling: str


def numeral(text: str) -> float:
    """Return the number that JSON writes as `text`; `cell_text` gives the same text back."""
    value = float(text)
    if repr(value) == text:
        return value
    number = Numeral(value)
    number.spelling = text
    return number


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing: null, NaN or an empty text."""
    return value is None or value == "" or (isinstance(value, float | Decimal) and math.isnan(value))


def cell_text(value: object) -> str | None:
    """Return a cell as text without outer blanks, or None if it is missing: null, NaN, nothing.

    Numbers stay as the file shows them, true and false are written so, a list is joined by ", ", also where a CSV file
    quotes its items. Raises ValueError for a cell that is none of these.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("[") and _LIST.fullmatch(text):
            return cell_text(ast.literal_eval(text)) if _is_literal(text) else text
        if len(text) > _LONGEST_WORD:
            return text
        return _TRUTH.get(text, text) if text.casefold() not in _MISSING else None
    if isinstance(value, bytes):
        return cell_text(value.decode())  # a UnicodeDecodeError is a ValueError
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Numeral):
        return value.spelling
    if isinstance(value, int | float | Decimal | date | time):
        return None if is_missing(value) else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(part for item in value if (part := cell_text(item)) is not None) or None
    raise ValueError("must be text, a number, true or false, or a list of those")


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def has_half_character(value: object) -> bool:
    """Whether a text, or any text within a list or a mapping, holds half a surrogate pair: JSON can, no file can."""
    if isinstance(value, str):
        return not value.isascii() and _HALF.search(value) is not None
    if isinstance(value, Mapping):
        return any(has_half_character(part) for part in (*value.keys(), *value.values()))
    return isinstance(value, list | tuple) and any(map(has_half_character, value))


def cell_list(value: object) -> Any:
    """Return a list that a CSV cell holds as JSON; any other value as it is, and None for an empty cell."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    if not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def cell_integer(value: object) -> Any:
    """Return a whole number that a CSV cell holds as text; any other value as it is."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d{1,18}\s*", value) else value


def plain(value: object) -> Any:
    """Return data as JSON can hold them: null for NaN and infinities, text for other types."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {key if isinstance(key, str | int | bool | None) else str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)
