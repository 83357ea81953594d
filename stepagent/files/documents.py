"""Rows of a JSON file: an object a line, one array of objects, or an object that holds one list of them."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from stepagent.errors import DataError
from stepagent.files.jsonl import decoded_row, json_fault, read_lines
from stepagent.files.values import numeral

Row = dict[str, Any]

_DECODER = json.JSONDecoder(parse_float=numeral)
_BLANKS = re.compile(r"\s*")
_COLUMNS = frozenset(
    {"question", "problem", "prompt", "instruction", "input", "query", "solution", "answer", "chosen", "rejected"}
)
"""Keys of a row: an object that has one is a row itself, whatever lists it holds."""
_TURNS = frozenset({"messages", "conversations", "conversation", "history", "candidates", "completions", "steps"})
"""Lists that belong to one row."""


def json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Each row with the line on which it begins. Lines are read one by one; an array, and an object that is written
    over several lines, is held as text. Raises DataError."""
    lines = read_lines(path)
    number, line = next(((number, line) for number, line in lines if not line.isspace()), (0, ""))
    if not line:
        return
    if line.lstrip().startswith("[") or _goes_on(line):
        yield from _Document(path, number, line + "".join(line for _, line in lines)).rows()
        return
    row = decoded_row(path, number, line, _DECODER)
    following = next(((number, line) for number, line in lines if not line.isspace()), None)
    if following is None:
        yield from _Document(path, number, line).rows()
        return
    yield number, row
    yield following[0], decoded_row(path, *following, _DECODER)
    for number, line in lines:
        if not line.isspace():
            yield number, decoded_row(path, number, line, _DECODER)


def _goes_on(line: str) -> bool:
    """Whether a line opens an object that it does not close."""
    text = line.strip()
    try:
        _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return text.startswith("{") and error.pos >= len(text)
    except (ValueError, RecursionError):
        pass
    return False


class _Document:
    """A JSON text from `line` of a file on, read item by item."""

    def __init__(self, path: Path, line: int, text: str) -> None:
        self._path = path
        self._text = text.rstrip()
        self._line = line
        self._counted = 0

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Return the rows, each with its line."""
        position = self._skip(0)
        if self._text.startswith("[", position):
            position = yield from self._items(position)
            if position < len(self._text):
                raise self._fault(position, "extra data behind the array")
            return
        single = True
        while position < len(self._text):
            start, row = position, self._object(position)
            position = self._skip(row[1])
            inner = self._list_of_rows(start, row[0]) if single and position == len(self._text) else None
            if inner is not None:
                yield from self._items(inner)
            else:
                yield self._line_at(start), row[0]
            single = False

    def _items(self, position: int) -> Generator[tuple[int, Row], None, int]:
        """Yield the objects of the array that begins at `position`, and return the place behind it."""
        position = self._skip(position + 1)
        if self._text.startswith("]", position):
            return self._skip(position + 1)
        while True:
            line = self._line_at(position)
            row, position = self._object(position)
            yield line, row
            position = self._skip(position)
            if self._text.startswith("]", position):
                return self._skip(position + 1)
            if not self._text.startswith(",", position):
                raise self._fault(position, "expecting ',' or ']' in the array")
            position = self._skip(position + 1)

    def _object(self, position: int) -> tuple[Row, int]:
        value, end = self._value(position)
        if not isinstance(value, dict):
            line = self._line_at(position)
            raise DataError.at(self._path, line, "expected a JSON object such as {...} for each item")
        return value, end

    def _value(self, position: int) -> tuple[Any, int]:
        try:
            return _DECODER.raw_decode(self._text, position)
        except json.JSONDecodeError as error:
            raise self._fault(min(error.pos, max(0, len(self._text) - 1)), error.msg) from None
        except (ValueError, RecursionError) as error:
            raise self._fault(position, json_fault(error)) from None

    def _list_of_rows(self, position: int, row: Row) -> int | None:
        """Return where the list begins that an object holds rows in, or None if the object is a row."""
        names = [name for name, value in row.items() if _holds_rows(value)]
        if len(names) != 1 or names[0] in _TURNS or row.keys() & _COLUMNS:
            return None
        position = self._skip(position + 1)
        while True:
            name, position = self._value(position)
            position = self._skip(self._skip(position) + 1)  # behind the colon
            if name == names[0] and self._text.startswith("[", position):
                return position
            position = self._skip(self._skip(self._value(position)[1]) + 1)  # behind the comma

    def _skip(self, position: int) -> int:
        match = _BLANKS.match(self._text, position)
        return match.end() if match else position

    def _line_at(self, position: int) -> int:
        if position < self._counted:
            return self._line - self._text.count("\n", position, self._counted)
        self._line += self._text.count("\n", self._counted, position)
        self._counted = position
        return self._line

    def _fault(self, position: int, reason: str) -> DataError:
        return DataError.at(self._path, self._line_at(position), f"not valid JSON ({reason})")


def _holds_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
