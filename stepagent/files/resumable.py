"""A JSONL file that grows by one row for every finished piece of work, and from which a killed run goes on."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from stepagent.console import bar
from stepagent.errors import DataError, explain
from stepagent.files.jsonl import drop_torn_line, dump_row

T = TypeVar("T")
R = TypeVar("R")
_NONE = -1


class ResumableFile(Generic[R]):
    """Rows of `kind`, one for each item, written as they come and read in the order of the items. Keeps eight bytes
    an item in memory, so that a million trees fit.

    Rows of an earlier start are kept, but for a torn last line and for rows that `failed`: those leave the file, and
    their items are open again. Raises DataError for a file that holds something else.
    """

    def __init__(
        self, path: Path, kind: type[R], *, key: Callable[[R], str], failed: Callable[[R], bool] = lambda row: False
    ) -> None:
        self._path = path
        self._adapter: TypeAdapter[R] = TypeAdapter(kind)
        self._kind = kind.__name__
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(path)
        self._offsets = self._drop_failed(key, failed) if path.exists() else {}
        self.earlier = len(self._offsets)
        self._places = array("q")
        self._file = path.open("ab")

    def _drop_failed(self, key: Callable[[R], str], failed: Callable[[R], bool]) -> dict[str, int]:
        """Where the row of each key begins, once failed rows are gone."""
        offsets: dict[str, int] = {}
        position = 0
        for line, row in self._rows():
            if not failed(row):
                offsets[key(row)] = position
                position += len(line)
        if position != self._path.stat().st_size:
            part = self._path.with_name(self._path.name + ".part")
            with part.open("wb") as file:
                file.writelines(line for line, row in self._rows() if not failed(row))
            part.replace(self._path)
        return offsets

    def _rows(self) -> Iterator[tuple[bytes, R]]:
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield line, self._adapter.validate_json(line)
                    except ValidationError as error:
                        reason = f"not a row of {self._kind} ({explain(error)}); move the file away"
                        raise DataError.at(self._path, number, reason) from None

    def open_items(self, items: Iterable[tuple[str, T]]) -> Iterator[tuple[int, T]]:
        """Return the items, given with their keys, that have no row yet, each with its place among all."""
        for place, (key, item) in enumerate(items):
            self._places.append(self._offsets.get(key, _NONE))
            if self._places[place] == _NONE:
                yield place, item

    def append(self, place: int, row: R) -> None:
        """Write the row of the item at `place`."""
        self._places[place] = self._file.tell()
        self._file.write(dump_row(row).encode())
        self._file.flush()

    def __iter__(self) -> Iterator[R]:
        """Return the rows, in the order of the items."""
        with self._path.open("rb") as file:
            for offset in self._places:
                if offset != _NONE:
                    file.seek(offset)
                    yield self._adapter.validate_json(file.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


async def fill(
    file: ResumableFile[R],
    items: Iterable[tuple[str, T]],
    work: Callable[[T], Awaitable[R]],
    *,
    label: str,
    total: int,
    concurrency: int,
) -> None:
    """Do `work` for every item (given with its key) that `file` has no row of, at most `concurrency` at once, and
    append each result as it comes."""
    with bar(label, total) as progress:
        progress.advance(min(file.earlier, total))
        stream = file.open_items(items)

        async def worker() -> None:
            for place, item in stream:
                file.append(place, await work(item))
                progress.advance()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, max(1, total))):
                group.create_task(worker())
