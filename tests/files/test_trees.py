"""The file of trees: read back in the order of the problems."""

from __future__ import annotations

from pathlib import Path

import pytest
from stepagent.files.trees_tmp import TreeFile

from stepagent import (
    DataError,
    Problem,
    StepTree,
)


def tree(name: str, status: str = "ended") -> StepTree:
    made = StepTree(Problem(name, "q"))
    made.status = status  # type: ignore[assignment]
    return made


def test_trees_come_back_in_the_order_of_the_problems_and_failed_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "trees.jsonl"
    problems = [Problem(name, "q") for name in "abcd"]
    with TreeFile(path) as file:
        left = dict(file.left(problems))
        assert list(left) == [0, 1, 2, 3]
        file.append(2, tree("c"))
        file.append(0, tree("a", "failed"))
        file.append(3, tree("d"))
        assert [it.problem.id for it in file] == ["a", "c", "d"]
    path.write_bytes(path.read_bytes() + b'{"torn')
    with TreeFile(path) as file:
        assert file.found == 2
        assert [place for place, _ in file.left(problems)] == [0, 1]
        file.append(1, tree("b"))
        file.append(0, tree("a"))
        assert [it.problem.id for it in file] == list("abcd")
    path.write_text('{"question": "q"}\n')
    with pytest.raises(DataError, match=r"trees\.jsonl:1: not a step tree; move the file away"):
        TreeFile(path)
