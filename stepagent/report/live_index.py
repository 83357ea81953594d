"""An index of all trees of a run that may still go on: it follows the files, and lies on disk, not in memory."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stepagent.console import visible
from stepagent.report.folder import ReportFolder, TreeFile
from stepagent.report.reading import Gaps, rows, tree_at, tree_of
from stepagent.report.references import references_of
from stepagent.report.tree_data import TreeData
from stepagent.report.tree_facts import FILTERS, LONGEST, TreeFacts, facts_of

_ORDERS = {"file": "file, position", "length": "length DESC, number", "margin": "margin IS NULL, margin, number"}
_SCHEMA = f"""
CREATE TABLE trees (number INTEGER PRIMARY KEY, file INTEGER, position INTEGER, id TEXT, question TEXT, status TEXT,
    right INTEGER, margin REAL, length INTEGER, outcome TEXT, {", ".join(f"{name} INTEGER" for name in FILTERS)});
CREATE INDEX problems ON trees (id, question);
CREATE INDEX places ON trees (file, position);
"""
_COMMIT = 500  # trees


class _End(NamedTuple):
    """The place up to which a file was read; another inode is another file."""

    inode: int
    position: int


class LiveIndex:
    """Index of the trees of the folder at `path`. `refresh` follows the files; other threads may ask meanwhile."""

    def __init__(self, path: Path) -> None:
        self._folder = ReportFolder.open(path)
        self._references = references_of(self._folder)
        self._files: list[TreeFile] = []
        self._ends: list[_End] = []
        self._lock = threading.Lock()
        self._database = sqlite3.connect("", check_same_thread=False)  # a temporary file of SQLite's own
        self._database.executescript(_SCHEMA)

    def refresh(self) -> bool:
        """Add the trees that were written since the last time. Returns whether there were any."""
        files = [file.path for file in self._files]
        for file in self._folder.tree_files():
            if file.browsed and file.path not in files:
                self._files.append(file)
                self._ends.append(_End(0, 0))
        changes = [self._follow(number) for number in range(len(self._files))]
        if any(changes):
            self._compare()
        return any(changes)

    def _follow(self, number: int) -> bool:
        """Read a file on from where it ended, or from its start if it was written anew. Returns whether it had more."""
        path, before = self._files[number].path, self._ends[number]
        inode = path.stat().st_ino if path.is_file() else 0
        if before.inode != inode:
            self._change("DELETE FROM trees WHERE file = ?", [(number,)])
            before = _End(inode, 0)
        end = before.position
        table_rows: list[tuple[Any, ...]] = []
        for position, line in rows(path, Gaps(), start=end):
            end = position + len(line)
            if tree := tree_of(line, path, Gaps()):
                table_rows.append(self._row(facts_of(tree, (number, position), self._references)))
            if len(table_rows) == _COMMIT:
                self._insert(table_rows)
                table_rows = []
        self._insert(table_rows)
        self._ends[number] = _End(inode, end)
        return end != before.position

    def _row(self, facts: TreeFacts) -> tuple[Any, ...]:
        outcome = str(facts.solution if facts.right is None else facts.right)
        place = (facts.file, facts.position, visible(facts.problem[0]), visible(facts.problem[1]))
        figures = (facts.status, facts.right, facts.margin, facts.length, outcome)
        return (None, *place, *figures, *(name in facts.flags for name in FILTERS))

    def _insert(self, table_rows: Sequence[tuple[Any, ...]]) -> None:
        self._change(f"INSERT INTO trees VALUES ({', '.join('?' * (10 + len(FILTERS)))})", table_rows)

    def _change(self, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._lock, self._database:
            self._database.executemany(query, rows)

    def _compare(self) -> None:
        """Set the filters that compare a tree with others."""
        with self._lock, self._database:
            (count,) = self._database.execute("SELECT COUNT(*) FROM trees WHERE length > 0").fetchone()
            lengths = "SELECT length FROM trees WHERE length > 0 ORDER BY length DESC LIMIT 1 OFFSET ?"
            bounds = [
                self._database.execute(lengths, (place,)).fetchone() for place in (int(LONGEST * count), count // 2)
            ]
            threshold, median = (bound[0] if bound else 0 for bound in bounds)
            self._database.execute("UPDATE trees SET longest = length >= ? AND ? > ?", (threshold, threshold, median))
            self._database.execute(
                "UPDATE trees SET changed = EXISTS (SELECT 1 FROM trees AS twin WHERE twin.id = trees.id "
                "AND twin.question = trees.question AND twin.outcome != trees.outcome)"
            )

    def page(self, query: str, file: int | None, filters: Sequence[str], *, order: str, first: int, size: int) -> Any:
        """Return the trees that match, `size` of them from `first` on, with the counts of all files and filters. Ids
        and questions are searched for `query`."""
        conditions, values = ["1"], []
        if query:
            conditions.append("(id LIKE ? ESCAPE '\\' OR question LIKE ? ESCAPE '\\')")
            pattern = "".join(f"\\{char}" if char in "%_\\" else char for char in query)
            values += [f"%{pattern}%"] * 2
        if file is not None:
            conditions.append("file = ?")
            values.append(str(file))
        conditions += [f"{name} = 1" for name in filters if name in FILTERS]
        columns = _ORDERS.get(order, _ORDERS["file"])
        condition = " AND ".join(conditions)
        with self._lock:
            (matches,) = self._database.execute(f"SELECT COUNT(*) FROM trees WHERE {condition}", values).fetchone()
            matching_rows = self._database.execute(
                f"SELECT * FROM trees WHERE {condition} ORDER BY {columns} LIMIT ? OFFSET ?", [*values, size, first]
            ).fetchall()
            sums = ", ".join(f"SUM({name})" for name in FILTERS)
            counts = self._database.execute(f"SELECT COUNT(*), {sums} FROM trees").fetchone()
            by_file = dict(self._database.execute("SELECT file, COUNT(*) FROM trees GROUP BY file").fetchall())
        return {
            "matches": matches,
            "all": counts[0],
            "counts": {name: count or 0 for name, count in zip(FILTERS, counts[1:], strict=True)},
            "filters": FILTERS,
            "files": [
                {"place": visible(place.place), "model": visible(place.model), "trees": by_file.get(number, 0)}
                for number, place in enumerate(self._files)
            ],
            "trees": [_listed(row) for row in matching_rows],
        }

    def trees(self, numbers: Sequence[int]) -> Mapping[str, Any] | None:
        """Return whole trees by their numbers, and the other trees of the first one's problem; None if a number is not
        known or its file has changed."""
        data = TreeData(self._files)
        with self._lock:
            marks = ", ".join("?" * len(numbers))
            chosen_rows = self._database.execute(f"SELECT * FROM trees WHERE number IN ({marks})", numbers)
            by_number = {row[0]: row for row in chosen_rows}
            first = by_number.get(numbers[0]) if numbers else None
            if first is None:
                return None
            query = "SELECT number, file FROM trees WHERE id = ? AND question = ? AND number != ?"
            twins = self._database.execute(query, (first[3], first[4], first[0])).fetchall()
        for number in numbers:
            row = by_number.get(number)
            tree = tree_at(self._files[row[1]].path, row[2]) if row else None
            if row is None or tree is None:
                return None
            data.add(tree, _facts(row))
        return {
            "texts": data.texts,
            "trees": data.trees,
            "twins": [{"number": number, "file": file} for number, file in twins],
        }

    def close(self) -> None:
        """Drop the index."""
        with self._lock:
            self._database.close()


def _flags(row: Sequence[Any]) -> list[str]:
    return [name for name, flag in zip(FILTERS, row[10:], strict=True) if flag]


def _listed(row: Sequence[Any]) -> dict[str, Any]:
    right = None if row[6] is None else bool(row[6])
    return {
        "number": row[0],
        "file": row[1],
        "id": row[3],
        "question": row[4][:500],
        "right": right,
        "flags": _flags(row),
    }


def _facts(row: Sequence[Any]) -> TreeFacts:
    return TreeFacts(
        file=row[1],
        position=row[2],
        problem=(row[3], row[4]),
        status=row[5],
        right=None if row[6] is None else bool(row[6]),
        length=row[8],
        margin=row[7],
        solution=0,
        flags=set(_flags(row)),
    )
