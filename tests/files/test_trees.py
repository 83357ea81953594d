"""The file of trees: read back in the order of the problems; rows of another version are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import (
    DataError,
    Problem,
    StepPreference,
    StepTree,
)
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.files.preference_rows import read_preferences
from stepagent.stages.search import tree_file
from stepagent.testing import text_preference

PREFERENCE = text_preference("q", "a", "b", question="q")


def tree(name: str, status: str = "ended") -> StepTree:
    step_tree = StepTree(Problem(name, "q"))
    step_tree.status = status  # type: ignore[assignment]
    return step_tree


def test_trees_come_back_in_the_order_of_the_problems_and_failed_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "trees.jsonl"
    problems = [(name, Problem(name, "q")) for name in "abcd"]
    with tree_file(path) as file:
        remaining = dict(file.open_items(problems))
        assert list(remaining) == [0, 1, 2, 3]
        file.append(2, tree("c"))
        file.append(0, tree("a", "failed"))
        file.append(3, tree("d"))
        assert [row.problem.id for row in file] == ["a", "c", "d"]
    path.write_bytes(path.read_bytes() + b'{"torn')
    with tree_file(path) as file:
        assert file.earlier == 2
        assert [place for place, _ in file.open_items(problems)] == [0, 1]
        file.append(1, tree("b"))
        file.append(0, tree("a"))
        assert [row.problem.id for row in file] == list("abcd")
    path.write_text('{"question": "q"}\n')
    with pytest.raises(DataError, match=r"trees\.jsonl:1: not a row of StepTree .*; move the file away"):
        tree_file(path)


def resume(path: Path) -> None:
    with tree_file(path):
        pass


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("trees", resume),
        ("trees", lambda path: read_rows(path, StepTree)),
        ("preferences", lambda path: read_rows(path, StepPreference)),
        ("preferences", lambda path: list(read_preferences(path))),
    ],
)
def test_rows_of_another_schema_are_refused_by_file_and_line(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / f"{name}.jsonl"
    row = tree("a") if name == "trees" else PREFERENCE
    write_rows(path, [row, row])
    read(path)
    lines = path.read_text().splitlines()
    other = {**json.loads(lines[1]), "schema": "stepagent/another/9"}
    path.write_text(f"{lines[0]}\n{json.dumps(other)}\n")
    with pytest.raises(DataError, match=rf"{name}\.jsonl:2: .*'schema' input should be 'stepagent/step-"):
        read(path)
