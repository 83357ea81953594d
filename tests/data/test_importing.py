"""Rows of other projects in: taken, or set aside with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepagent import DataError
from stepagent.data.convert import ImportTo, import_rows
from stepagent.files.jsonl import write_rows
from stepagent.files.labelled_rows import read_labelled
from stepagent.types import StepPair

FOREIGN: list[dict[str, Any]] = [
    {"problem": "q1", "steps": ["a", "b"], "label": -1},
    {"problem": "q2", "steps": ["a", "b", "c"], "label": 1},
    {"input": "q3 Step 1: a ки\nStep 2: b ки", "label": "q3 Step 1: a +\nStep 2: b +"},
    {"prompt": "q4", "completions": ["a", "b", "c"], "labels": [True, False, True]},
    {
        "question": {"problem": "q5"},
        "label": {
            "steps": [
                {
                    "completions": [{"text": "good", "rating": 1}, {"text": "bad", "rating": -1}],
                    "chosen_completion": 0,
                }
            ]
        },
    },
    {"prompt": "q6", "initial_reason_steps": "Step 1: a\nStep 2:", "chosen": " b", "rejected": " c"},
    {"prompt": "q7 ", "chosen": "yes", "rejected": "no"},
    {"prompt": "q8", "chosen": "same", "rejected": "same"},
    {"text": "what is this"},
    {"problem": "q9", "steps": ["â€™s"], "label": -1},
    {"problem": "q10", "steps": ["x" * 100_001], "label": -1},
]


def import_result(folder: Path, to: ImportTo) -> tuple[list[dict[str, Any]], list[str]]:
    write_rows(folder / "in.jsonl", FOREIGN)
    import_rows(str(folder / "in.jsonl"), to, folder / f"{to}.jsonl")

    def lines(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    aside = lines(folder / f"{to}.set_aside.jsonl")
    assert all(row["where"].startswith(str(folder / "in.jsonl")) for row in aside)
    return lines(folder / f"{to}.jsonl"), [row["reason"] for row in aside]


def test_foreign_rows_are_imported_or_set_aside_with_the_reason(tmp_path: Path) -> None:
    pairs, aside = import_result(tmp_path, "pairs")
    winners = {row["question"]: (row[row["winner"]], row["prefix"]) for row in pairs}
    assert winners == {
        "q5": ("good", []),
        "q6": ("b", ["Step 1:", " a\nStep 2:"]),
        "q7 ": ("yes", []),
    }
    assert len(pairs) + len(aside) == len(FOREIGN)
    assert aside.count("holds no pair") == 4
    assert "both steps are the same" in aside
    assert "broken characters" in aside
    assert "longer than 100,000 characters" in aside
    assert "a row of no known format" in aside

    solutions, aside = import_result(tmp_path, "solutions")
    assert solutions == [
        {"question": "q1", "solution": "a\n\nb", "steps": ["a", "b"]},
        {"question": "q3", "solution": "Step 1: a\nStep 2: b", "steps": ["Step 1: a\n", "Step 2: b\n"]},
    ]
    assert aside.count("has a wrong step") == 2

    steps, _ = import_result(tmp_path, "steps")
    assert [row["labels"] for row in steps] == [[True, True], [True, False], [True, True], [True, False]]
    assert read_labelled(tmp_path / "pairs.jsonl", None, 0)[0] == StepPair(
        "q5", (), "good", second="bad", winner="first"
    )


def test_an_import_of_nothing_is_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match=r"no pairs in it; .*set_aside\.jsonl says why"):
        import_rows(str(tmp_path / "in.jsonl"), "pairs", tmp_path / "out.jsonl")


WRONG: list[dict[str, Any]] = [
    {"prompt": "q", "completions": ["a", "b"], "labels": ["False", "False"]},
    {"prompt": "q", "completions": ["a"], "labels": [None]},
    {"prompt": "q", "completions": "abc", "labels": [True, True, True]},
    {"prompt": [{"role": "user", "content": "q"}], "completions": ["a"], "labels": [True]},
    {"problem": "q", "steps": ["a"], "label": True},
    {"problem": "q", "steps": ["a"], "label": float("inf")},
    {"problem": None, "steps": ["a"], "label": -1},
    {"problem": "q", "steps": ["a", {"b": 1}], "label": -1},
    {"problem": "q", "steps": ["", " "], "label": -1},
    {"problem": "", "steps": ["a"], "label": -1},
    {
        "question": {"problem": "q"},
        "label": {"steps": [{"completions": [{"text": "a", "rating": 1}], "chosen_completion": 5}]},
    },
    {"question": {"problem": "q"}, "label": {"steps": None}},
    {"question": "q", "prefix": "abc", "first": "a", "second": "b", "winner": "first"},
    {"question": "q", "first": None, "second": "b", "winner": "first"},
    {"question": "q", "first": "a", "second": "a ", "winner": "first"},
    {"question": " ", "first": "a", "second": "b", "winner": "first"},
    {"question": "q", "first": "a", "second": "b", "winner": "x" * 2_000_000},
    {"prompt": None, "initial_reason_steps": "", "chosen": "a", "rejected": "b"},
    {"prompt": "q", "initial_reason_steps": ["a"], "chosen": "a", "rejected": "b"},
    {
        "prompt": [{"role": "user", "content": None}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    },
    {"prompt": "q \ud800", "chosen": "a", "rejected": "b"},
    {"prompt": 3, "chosen": "a", "rejected": "b"},
    {},
]


@pytest.mark.parametrize("to", ["pairs", "solutions", "steps"])
def test_wrong_types_are_never_taken_for_data(tmp_path: Path, to: ImportTo) -> None:
    good: list[dict[str, Any]] = [FOREIGN[0], FOREIGN[5]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*WRONG, *good]))
    import_rows(str(tmp_path / "in.jsonl"), to, tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1
    aside = [json.loads(line) for line in (tmp_path / "out.set_aside.jsonl").read_text().splitlines()]
    assert len(aside) == len(WRONG) + 1
    assert len({row["reason"] for row in aside}) < 8, "reasons can be counted"
    assert max(len(row["detail"]) for row in aside) <= 300
