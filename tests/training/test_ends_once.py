"""An end of turn is trained once, and only behind a step that ended: also from exported rows, and from broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import StepPreference
from stepagent.data.convert import export_rows
from stepagent.files.exports import PREFERENCES
from stepagent.files.jsonl import write_rows
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.pairs import load_pairs


@pytest.mark.parametrize("to", PREFERENCES)
def test_exported_rows_train_each_end_once(
    to: str, random_model: Path, tmp_path: Path, preference: Callable[..., StepPreference]
) -> None:
    tokenizer = ChatTokenizer(random_model)
    row = preference(tokenizer, "1+1=2\n", "1+1=9\n", chosen_ends=True)
    write_rows(tmp_path / "p.jsonl", [row])
    export_rows(tmp_path / "p.jsonl", to, tokenizer.text([tokenizer.end_id]), out=tmp_path / "out.jsonl")
    pairs = load_pairs(tmp_path / "out.jsonl", tokenizer, 100, vocabulary=len(tokenizer))
    chosen, rejected = ([*target.ids[target.start :]] for target in pairs.units[0])
    assert chosen[-1] == tokenizer.end_id
    assert (chosen.count(tokenizer.end_id), rejected.count(tokenizer.end_id)) == (1, 0)


def test_a_text_that_closes_with_the_end_is_given_no_second(random_model: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(random_model)
    end = tokenizer.text([tokenizer.end_id])
    rows = [
        {"question": "1+1", "chosen": f"2{end}", "rejected": "9"},
        {"question": "1+1 \ud83d", "chosen": "2", "rejected": "9"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = load_pairs(tmp_path / "p.jsonl", tokenizer, 100, vocabulary=len(tokenizer))
    assert [target.ids.count(tokenizer.end_id) for target in pairs.units[0]] == [1, 1]
    assert pairs.aside == {"broken characters": 1}
