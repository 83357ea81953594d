"""Labelled rows of four projects, told apart by their keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepagent import DataError
from stepagent.files.labelled_rows import LabelledSolution, read_labelled
from stepagent.types import StepPair


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_four_projects_are_told_by_their_keys(tmp_path: Path) -> None:
    eft = {"question": "q", "prefix": ["a\n"], "first": "x", "second": "y", "winner": "second"}
    prm800k = {
        "question": {"problem": "p"},
        "label": {
            "steps": [
                {
                    "completions": [
                        {"text": "good", "rating": 1},
                        {"text": "bad", "rating": -1},
                        {"text": "so", "rating": 0},
                    ],
                    "chosen_completion": 0,
                },
                {
                    "completions": [{"text": "worse", "rating": -1}, {"text": "fine", "rating": 1}],
                    "chosen_completion": None,
                },
            ]
        },
    }
    shepherd = {
        "input": "How many? Step 1: two ки\nStep 2: five ки",
        "label": "How many? Step 1: two +\nStep 2: five -",
        "task": "GSM8K",
    }
    bench = {"problem": "p", "steps": ["a", "b"], "label": -1, "id": "x"}
    items = read_labelled(write(tmp_path / "d.jsonl", eft, prm800k, shepherd, bench), None, 0)
    assert items == [
        StepPair("q", ("a\n",), "x", second="y", winner="second"),
        StepPair("p", (), "good", second="bad", winner="first"),
        StepPair("p", ("good\n",), "worse", second="fine", winner="second"),
        LabelledSolution("How many?", ("Step 1: two\n", "Step 2: five\n"), 1),
        LabelledSolution("p", ("a", "b"), None),
    ]
    assert len(read_labelled(tmp_path / "d.jsonl", 2, 0)) == 2
    assert read_labelled(tmp_path / "d.jsonl", 2, 0) == read_labelled(tmp_path / "d.jsonl", 2, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, r"d\.jsonl:1: not a row of labelled pairs, PRM800K, .*; it holds text"),
        (
            {"question": "q", "first": "a", "second": "b", "winner": "A"},
            "'winner' input should be 'first', 'second' or 'tie'",
        ),
        ({"problem": "p", "steps": ["a"], "label": 3}, "label 3, but there are only 1 steps"),
        ({"input": "Step 1: a ки\nStep 2: b ки", "label": "Step 1: a +"}, "2 steps in 'input', but 1 labels"),
        ({"input": "a ки", "label": "a +"}, "no 'Step 1:' in 'input'"),
        ({"question": {"problem": "p"}, "label": {"steps": [3]}}, "'label.steps.0'"),
    ],
)
def test_a_bad_labelled_row_is_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled(write(tmp_path / "d.jsonl", row), None, 0)
