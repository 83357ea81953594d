"""Preference pairs as token ids: those that are trained on, set aside, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import DataError, StepPreference
from stepagent.config.prompts import load_prompt
from stepagent.files.jsonl import write_rows
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.pairs import load_pairs

Preference = Callable[..., StepPreference]


def test_end_of_turn_is_trained_only_after_a_step_that_ended(
    preference: Preference, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    rows = [preference(tokenizer, "1\n", "2\n"), preference(tokenizer, "3", "4", ends=True)]
    rows.append(preference(tokenizer, "5", "6", ends=True, prompt_ids=None, chosen_ids=None, rejected_ids=None))
    write_rows(tmp_path / "p.jsonl", rows)
    units = load_pairs(tmp_path / "p.jsonl", tokenizer, 128, vocabulary=31).units
    end = tokenizer.end_id
    assert [[t.ids[-1] == end for t in unit] for unit in units] == [
        [False, False],
        [True, True],
        [True, True],
    ]


def test_unusable_pairs_are_set_aside_with_a_count(preference: Preference, random_model: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(random_model)
    rows = [
        preference(tokenizer, "1\n", "2\n"),
        preference(tokenizer, "1\n", "1\n"),
        preference(tokenizer, "", "2\n"),
        preference(tokenizer, "1" * 200, "2\n"),
        preference(tokenizer, "1\n", "2\n", prompt_ids=()),
        preference(tokenizer, "1\n", "2\n", chosen_ids=(7, 99)),
    ]
    write_rows(tmp_path / "p.jsonl", rows)
    pairs = load_pairs(tmp_path / "p.jsonl", tokenizer, 128, vocabulary=31)
    assert len(pairs.units) == 1
    assert pairs.aside == {
        "chosen equals rejected": 1,
        "empty step": 1,
        "longer than the model's window": 1,
        "empty prompt": 1,
        "ids outside the vocabulary": 1,
    }


def test_bad_preference_files_are_refused(preference: Preference, random_model: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(random_model)
    path = tmp_path / "p.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match="no preference pairs"):
        load_pairs(path, tokenizer, 128, vocabulary=31)
    write_rows(path, [preference(tokenizer, "1\n", "2\n", tokenizer_sha256="other")])
    with pytest.raises(DataError, match=r"p\.jsonl:1: token ids of another tokenizer"):
        load_pairs(path, tokenizer, 128, vocabulary=31)
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(DataError, match=r"p\.jsonl:1: not a preference row of .* it holds prompt"):
        load_pairs(path, tokenizer, 128, vocabulary=31)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_a_pair_that_counts_nothing_is_refused(
    weight: float, preference: Preference, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    rows = [preference(tokenizer, "=2\n", "=3\n"), preference(tokenizer, "=2\n", "=3\n", weight=weight)]
    write_rows(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match=r"p\.jsonl:2: weight .* a number above 0"):
        load_pairs(tmp_path / "p.jsonl", tokenizer, 100, vocabulary=1000)


def test_rows_of_an_api_without_ids_get_the_models_own_template(
    preference: Preference, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    expected = preference(tokenizer, "5", "6")
    no_ids = {"prompt_ids": None, "chosen_ids": None, "rejected_ids": None, "tokenizer_sha256": None}
    row = preference(tokenizer, "5", "6", prompt="1+1\n\n", **no_ids)
    write_rows(tmp_path / "p.jsonl", [row])
    solve = load_prompt("demo_solve", ("question",))
    pairs = load_pairs(tmp_path / "p.jsonl", tokenizer, 100, vocabulary=len(tokenizer), solve=solve)
    ((chosen, rejected),) = pairs.units
    assert chosen.ids == (*(expected.prompt_ids or ()), *(expected.chosen_ids or ()))
    assert rejected.ids == (*(expected.prompt_ids or ()), *(expected.rejected_ids or ()))
