"""Reading and writing JSONL: typed rows in, one clear sentence for a bad line, whole files or none."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from stepagent.errors import DataError, explain
from stepagent.files.values import has_half_character, plain

T = TypeVar("T")
_BLOCK = 1 << 16  # bytes
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # building one takes milliseconds


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be read; one that gzip has packed, whatever its name, is unpacked. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(file) as unpacked:
                yield cast(BinaryIO, unpacked)
        else:
            yield file


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line of a text file, packed or not, with its number (from 1), its end, and without a byte order mark: files
    that were joined hold several. Raises DataError."""
    number = 0
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode()
                except UnicodeDecodeError:
                    raise DataError.at(path, number, "not valid UTF-8; convert the file") from None
                yield number, text.lstrip("\ufeff")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError.at(path, number + 1, f"the packed file is cut off or damaged ({error})") from None


def decoded_row(path: Path, number: int, line: str, decoder: json.JSONDecoder) -> dict[str, Any]:
    """Return the object in a line of JSON. Raises DataError."""
    try:
        row = decoder.decode(line.strip())
    except (ValueError, RecursionError) as error:
        raise DataError.at(path, number, f"not valid JSON ({json_fault(error)})") from None
    if not isinstance(row, dict):
        raise DataError.at(path, number, "expected a JSON object such as {...} on each line")
    return row


def json_fault(error: Exception) -> str:
    """Return the reason that Python's JSON reader gives, in one line."""
    return str(error).partition("\n")[0]


def iter_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row's line number (from 1) and object. Blank lines are skipped. Raises DataError."""
    decoder = json.JSONDecoder()
    for number, line in read_lines(path):
        if not line.isspace():
            yield number, decoded_row(path, number, line, decoder)


def iter_numbered(path: Path, kind: type[T], hint: str = "") -> Iterator[tuple[int, T]]:
    """Return the rows of a file as `kind`, each with its line number. Raises DataError for the first bad one, with
    file, line, the reason and `hint`."""
    adapter = TypeAdapter(kind)
    for number, row in iter_json(path):
        try:
            yield number, adapter.validate_python(row)
        except ValidationError as error:
            raise DataError.at(path, number, explain(error) + hint) from None


def read_numbered(path: Path, kind: type[T], hint: str = "") -> list[tuple[int, T]]:
    """All rows of a file. See `iter_numbered`."""
    return list(iter_numbered(path, kind, hint))


def read_rows(path: Path, kind: type[T]) -> list[T]:
    """All rows of a file as `kind`. Raises DataError as `iter_numbered` does."""
    return [row for _, row in read_numbered(path, kind)]


def dump_row(row: object) -> str:
    """One JSONL line (with its newline) for a dataclass, a pydantic model or plain JSON data."""
    kind = type(row)
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind].dump_json(row).decode() + "\n"


def dump_any(row: dict[str, Any]) -> str:
    """One JSONL line for a foreign row of any content: values that JSON lacks are written as Python shows them."""
    try:
        return json.dumps(row, default=repr, allow_nan=False) + "\n"
    except (ValueError, TypeError, RecursionError):  # a NaN, a key that is no text, or nested too deep
        pass
    try:
        return json.dumps(plain(row), allow_nan=False) + "\n"
    except (ValueError, TypeError, RecursionError):
        return json.dumps({key: repr(value)[:1000] for key, value in row.items()}) + "\n"


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """Return a file that takes its place only when it is finished: a reader never sees half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file or none of it."""
    with _whole(path) as file:
        file.write(text)


def write_json(path: Path, data: object) -> None:
    """Write figures (plain data, or a dataclass) as a JSON file, the whole file or none of it. JSON knows no NaN and
    no infinity: it holds null there."""
    content = plain(asdict(data) if is_dataclass(data) and not isinstance(data, type) else data)
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=has_half_character(content))
    write_atomic(path, text + "\n")


def write_rows(path: Path, rows: Iterable[object]) -> None:
    """Write rows as JSONL, the whole file or none of it, one row at a time in memory."""
    with _whole(path) as file:
        for row in rows:
            file.write(dump_row(row))


def drop_torn_line(path: Path) -> None:
    """Cut a last line that a killed writer left without its newline."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            block = file.read(end - start)
            if (newline := block.rfind(b"\n")) >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)
