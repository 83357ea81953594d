"""trees.jsonl: a line is appended as each tree ends, and read back in the order of the problems."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stepagent.errors import DataError, explain
from stepagent.files.jsonl import drop_torn_line, dump_row, iter_json
from stepagent.tree import StepTree
from stepagent.types import Problem

_TREE = TypeAdapter(StepTree)
_NONE = -1


class TreeFile:
    """Holds eight bytes for each problem, not its tree: a million problems fit.

    What the file of an earlier start holds is kept, but for a torn last line and for failed trees: those
    are left out, to be searched again. Raises DataError for a file that holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(path)
        self._kept = self._drop_failed() if path.exists() else {}
        self.found = len(self._kept)
        self._places = array("q")
        self._file = path.open("ab")

    def _drop_failed(self) -> dict[str, int]:
        """Where the line of each problem's tree begins, once failed ones are gone."""
        offsets: dict[str, int] = {}
        place = 0
        for number, row, line in self._rows():
            try:
                name, status = str(row["problem"]["id"]), row["status"]
            except (KeyError, TypeError):
                raise DataError.at(self._path, number, "not a step tree; move the file away") from None
            if status != "failed":
                offsets[name] = place
                place += len(line)
        if place != self._path.stat().st_size:
            self._rewrite()
        return offsets

    def _rewrite(self) -> None:
        part = self._path.with_name(self._path.name + ".part")
        with part.open("wb") as kept:
            kept.writelines(line for _, row, line in self._rows() if row["status"] != "failed")
        part.replace(self._path)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any], bytes]]:
        """Each row's line number, object and bytes."""
        with self._path.open("rb") as lines:
            for (number, row), line in zip(iter_json(self._path), filter(bytes.strip, lines), strict=True):
                yield number, row, line

    def left(self, problems: Iterable[Problem]) -> Iterator[tuple[int, Problem]]:
        """The problems that have no tree yet, each with its place among all."""
        for place, problem in enumerate(problems):
            self._places.append(self._kept.pop(problem.id, _NONE))
            if self._places[place] == _NONE:
                yield place, problem

    def append(self, place: int, tree: StepTree) -> None:
        """Write the tree of the problem at `place`."""
        self._places[place] = self._file.tell()
        self._file.write(dump_row(tree).encode())
        self._file.flush()

    def __iter__(self) -> Iterator[StepTree]:
        """The trees, in the order of the problems."""
        with self._path.open("rb") as file:
            for offset in self._places:
                if offset != _NONE:
                    file.seek(offset)
                    try:
                        yield _TREE.validate_json(file.readline())
                    except ValidationError as error:
                        raise DataError(f"{self._path}: not a step tree ({explain(error)})") from None

    def __enter__(self) -> TreeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
