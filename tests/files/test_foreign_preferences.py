"""Preference rows of other projects: the question from its column, turns as turns, or one sentence with the keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepagent import DataError, StepPreference
from stepagent.data.convert import export_rows, import_rows
from stepagent.files.exports import PREFERENCES
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.files.preference_rows import ForeignPair, preference, read_preferences
from stepagent.files.rows import load_labelled_pairs
from stepagent.testing import text_preference

REPLIES = {"chosen": "The result is 12.", "rejected": "The result is 7."}
USER = ("user", "Q?")


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def said(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"system": "", "question": "Q?"}, [USER]),
        ({"system": "Be kind.", "question": "Q?"}, [("system", "Be kind."), USER]),
        ({"system": None, "input": "Q?", "rating": 3}, [USER]),
        ({"query": "Q?"}, [USER]),
        ({"problem": "Q?"}, [USER]),
        ({"instruction": "Q?", "input": ""}, [USER]),
        ({"instruction": "Q?", "input": "x = 3"}, [("user", "Q?\nx = 3")]),
        ({"instruction": "Q?", "history": [["a", "b"]]}, [("user", "a"), ("assistant", "b"), USER]),
        ({"prompt": "Q?", "history": [["a", "b"]]}, [("user", "a"), ("assistant", "b"), USER]),
        ({"prompt": "Q?", "system": "S"}, [("system", "S"), USER]),
        ({"prompt": [turn("user", "Q?")]}, [USER]),
        ({"messages": [turn("user", "Q?")]}, [USER]),
        ({"question": "Q?", "history": [], "prompt": None}, [USER]),
    ],
)
def test_the_question_comes_from_its_column(row: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    pair = preference("p:1", {**row, **REPLIES})
    assert isinstance(pair, ForeignPair)
    assert [(message.role, message.content) for message in pair.turns] == turns
    assert (pair.prefix, pair.chosen, pair.rejected) == ("", REPLIES["chosen"], REPLIES["rejected"])
    assert pair.ends == (True, True)


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        (
            {
                "conversations": [said("system", "S"), said("human", "Q?")],
                "chosen": said("gpt", "A"),
                "rejected": said("gpt", "B"),
            },
            [("system", "S"), USER],
        ),
        (
            {
                "prompt": "Q?",
                "chosen": [turn("user", "Q?"), turn("assistant", "A")],
                "rejected": [turn("user", "Q?"), turn("assistant", "B")],
                "messages": [turn("user", "Q?"), turn("assistant", "A")],
            },
            [USER],
        ),
        (
            {"system": "S", "question": "Q?", "chosen": [turn("assistant", "A")], "rejected": [turn("assistant", "B")]},
            [("system", "S"), USER],
        ),
    ],
)
def test_replies_as_turns(row: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    pair = preference("p:1", row)
    assert isinstance(pair, ForeignPair)
    assert [(message.role, message.content) for message in pair.turns] == turns
    assert (pair.chosen, pair.rejected) == ("A", "B")


def test_only_a_row_with_nothing_else_uses_the_common_beginning() -> None:
    pair = preference("p:1", {**REPLIES, "score": 0.5, "source": "web"})
    assert isinstance(pair, ForeignPair)
    assert (pair.prefix, pair.chosen, pair.rejected) == ("The result is", " 12.", " 7.")


@pytest.mark.parametrize(
    "row",
    [
        {**REPLIES, "post": "How many pens has Tom now?"},
        {**REPLIES, "context": [{"text": "Q?"}]},
        {**REPLIES, "system": "You are kind."},
        {"question": "Q?", "answer": "A"},
        {"prompt": 3, **REPLIES},
        {"chosen": [turn("assistant", "A")], "rejected": [turn("assistant", "B")], "topic": "x"},
    ],
)
def test_a_row_that_cannot_be_understood_names_its_keys(row: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(DataError, match=rf"p\.json:1: not a preference row .*it holds {', '.join(row)}"):
        list(read_preferences(path))


def test_the_question_is_imported_alone(tmp_path: Path) -> None:
    rows = [
        {"system": "Be kind.", "question": "Q1?", **REPLIES},
        {"history": [["a", "b"]], "instruction": "Q2?", **REPLIES},
        {"question": "", **REPLIES},
        {"question": "Q3? \ud83d", **REPLIES},
        {"post": "How many pens has Tom now?", **REPLIES},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_rows(str(tmp_path / "p.jsonl"), "pairs", tmp_path / "out.jsonl")
    assert [pair.question for pair in load_labelled_pairs(tmp_path / "out.jsonl")] == ["Q1?", "a\n\nb\n\nQ2?"]
    aside = [json.loads(line) for line in (tmp_path / "out.set_aside.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in aside] == [
        "an empty question or step",
        "broken characters",
        "not a whole row of its format",
    ]
    assert "it holds post, chosen, rejected" in aside[2]["detail"]


ENDED = text_preference(
    "<|user|>Q<|assistant|>Step 1: a\nStep 2:",
    " so 3<|end|>",
    " c\nStep 3:",
    prefix=("Step 1: a\nStep 2:",),
    chosen_ends=True,
    depth=2,
)


@pytest.mark.parametrize("to", PREFERENCES)
@pytest.mark.parametrize("end", ["<|end|>", "<|im_end|>\n", ""])
def test_an_export_comes_back_exactly(tmp_path: Path, to: str, end: str) -> None:
    """Also where a step's own text closes with the very text that the export puts behind ended steps."""
    rows = [ENDED, replace(ENDED, chosen=" d\nStep 3:", chosen_ends=False, rejected=" e", rejected_ends=True)]
    write_rows(tmp_path / "p.jsonl", rows)
    export_rows(tmp_path / "p.jsonl", to, end, out=tmp_path / "out.jsonl")
    for (_, pair), row in zip(read_preferences(tmp_path / "out.jsonl"), rows, strict=True):
        assert isinstance(pair, ForeignPair)
        assert (pair.chosen, pair.rejected) == (row.chosen, row.rejected)
        assert pair.ends == (row.chosen_ends, row.rejected_ends)
    import_rows(str(tmp_path / "out.jsonl"), "pairs", tmp_path / "again.jsonl")
    import_rows(str(tmp_path / "p.jsonl"), "pairs", tmp_path / "direct.jsonl")
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "direct.jsonl").read_text()
    assert read_rows(tmp_path / "p.jsonl", StepPreference) == rows
