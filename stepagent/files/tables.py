"""Rows of a JSON, CSV, TSV or Parquet file, of a dataset folder, or of a dataset on the hub."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from stepagent.errors import DataError, explain
from stepagent.files.documents import json_rows
from stepagent.files.jsonl import open_bytes, read_lines
from stepagent.files.values import HALF_CHARACTER, cell_list, cell_text, has_half_character, is_missing

T = TypeVar("T")
Row = dict[str, Any]

_FIELD = 1 << 30  # bytes of one CSV field, at most
_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz"})


def read_raw(data: str | Path, subset: str | None = None, split: str | None = None) -> Iterator[tuple[str, Row]]:
    """Every row as plain data, with its place (file and line, or file and row); one at a time. `data` is a file, a
    dataset folder or a hub id, whose `subset` and `split` (train, if not given) may be named; the split also as
    `:split` behind it.

    A file is JSON lines, a JSON array, a JSON object with one list of rows, CSV, TSV or Parquet, by its ending in
    either case; any of them may be packed by gzip. Raises DataError."""
    path = Path(data)
    suffix = path.suffix.lower()
    if path.is_dir() or (not (path.is_file() or suffix in _SUFFIXES) and may_be_dataset(str(data))):
        yield from _dataset(str(data), subset, split)
        return
    if suffix == ".gz":
        suffix = Path(path.stem).suffix.lower()
    if suffix in (".csv", ".tsv"):
        rows = _csv(path, suffix)
    elif suffix == ".parquet" or _is_parquet(path):
        yield from _parquet(path)
        return
    else:
        rows = json_rows(path)
    for line, row in rows:
        yield f"{path}:{line}", row


def read_typed(data: str | Path, kind: type[T], hint: str = "") -> Iterator[tuple[str, T]]:
    """Return the rows of `data` as the dataclass `kind`, each with its place. Missing cells get the defaults, and a CSV
    cell may hold a list as JSON. Raises DataError for the first bad row, with its place, the reason and `hint`."""
    adapter = TypeAdapter(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    for place, row in read_raw(data):
        cells = {field.name: _cell(field, row[field.name]) for field in fields if _is_given(field, row)}
        if has_half_character(cells):
            raise DataError(f"{place}: {HALF_CHARACTER}")
        try:
            yield place, adapter.validate_python(cells)
        except ValidationError as error:
            raise DataError(f"{place}: {explain(error)}{hint}") from None


def _is_given(field: dataclasses.Field[Any], row: Row) -> bool:
    """Return whether a row says something about a field; a missing cell is left to the default, if there is one."""
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return field.name in row and (required or not is_missing(row[field.name]))


def _cell(field: dataclasses.Field[Any], value: object) -> object:
    kind = str(field.type)
    if kind.startswith("tuple"):
        return () if is_missing(value) else cell_list(value)
    try:
        return cell_text(value) if kind == "str | None" else value
    except ValueError:
        return value


def may_be_dataset(data: str) -> bool:
    """Return whether a name is that of a dataset folder, or may be one on the hub."""
    name = data.partition(":")[0]
    return Path(name).is_dir() or name.count("/") == 1


def _csv(path: Path, suffix: str) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(_FIELD)
    lines = ((number, part) for number, line in read_lines(path) for part in _physical_lines(line))
    number, first = next(((number, line) for number, line in lines if not line.isspace()), (1, ""))
    delimiter = "\t" if suffix == ".tsv" else next((sign for sign in ",;\t" if sign in first), ",")
    spaced = delimiter != "\t" and f"{delimiter} " in first
    texts = chain([first], (line for _, line in lines))
    reader = csv.reader(texts, delimiter=delimiter, skipinitialspace=spaced, strict=True)
    header: list[str] = []
    start, before = number, number - 1
    try:
        for cells in reader:
            line, start = start, before + reader.line_num + 1
            if not header:
                header = _header(path, line, cells)
            elif len(cells) > 1 and not any(cells):
                continue
            elif len(cells) != len(header) and cells:
                raise DataError.at(path, line, "not as many fields as the header has; check quotes and commas")
            elif cells:
                yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError.at(path, before + reader.line_num, f"not valid CSV ({error})") from None


def _physical_lines(line: str) -> list[str]:
    """Return the lines of a text that ends lines with a carriage return alone."""
    return re.findall(r"[^\r]*(?:\r\n?|\Z)", line)[:-1] if "\r" in line[:-2] else [line]


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for place, name in enumerate(names) if name and name in names[:place]), None)
    if twice is not None:
        raise DataError.at(path, line, f"two columns are named '{twice}'; rename one")
    return names


def _is_parquet(path: Path) -> bool:
    with open_bytes(path) as file:
        return file.read(4) == b"PAR1"


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs: pip install 'stepagent[train]'") from None
    try:
        number = 0
        with open_bytes(path) as file:
            packed = isinstance(file, io.BufferedReader)
            with ParquetFile(file if packed else io.BytesIO(file.read())) as table:
                for batch in table.iter_batches(batch_size=1024):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path} row {number}", row
    except (ArrowInvalid, OSError, EOFError) as error:
        raise DataError(f"{path}: not a Parquet file ({str(error).partition(chr(10))[0]})") from None


def _dataset(data: str, subset: str | None, split: str | None) -> Iterator[tuple[str, Row]]:
    name, _, named_split = data.partition(":")
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"{data}: reading a dataset needs: pip install 'stepagent[train]'") from None
    try:
        rows = load_dataset(name, subset, split=split or named_split or "train")
    except Exception as error:  # noqa: BLE001 - whatever the hub, the network or a builder raises
        reason = str(error).strip().partition("\n")[0][:200]
        raise DataError(f"{data}: neither a file nor a dataset that can be read ({reason})") from None
    for number, row in enumerate(rows):
        yield f"{data} row {number}", row
