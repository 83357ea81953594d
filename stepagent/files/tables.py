"""Rows of a JSONL, CSV or Parquet file, of a dataset folder, or of a dataset on the hub."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepagent.errors import DataError
from stepagent.files.jsonl import iter_json

_FIELD = 1 << 30  # bytes of one CSV field, at most


def read_raw(
    data: str | Path, subset: str | None = None, split: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row as plain data, with its place (file and line); one at a time. `data` is a file, a dataset folder or a
    hub id, whose `subset` and `split` (train, if not given) may be named; the split also as `:split` behind
    it. Raises DataError."""
    path = Path(data)
    if path.suffix == ".csv":
        yield from _csv(path)
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    elif path.is_file() or path.suffix == ".jsonl" or not _may_be_dataset(str(data)):
        for line, row in iter_json(path):
            yield f"{path}:{line}", row
    else:
        yield from _dataset(str(data), subset, split)


def _may_be_dataset(data: str) -> bool:
    name = data.partition(":")[0]
    return Path(name).is_dir() or name.count("/") == 1


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    csv.field_size_limit(_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                place = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{place}: not as many fields as the header has; check quotes and commas")
                yield place, row
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not valid CSV ({error})") from None
        except UnicodeDecodeError:
            raise DataError(f"{path}:{reader.line_num + 1}: not valid UTF-8; convert the file") from None


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs: pip install 'stepagent[train]'") from None
    try:
        number = 0
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({str(error).partition(chr(10))[0]})") from None


def _dataset(data: str, subset: str | None, split: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
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
