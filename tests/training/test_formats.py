"""Rows of other projects reach the trainer as the tokens that those projects mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stepagent import DataError
from stepagent.config.prompts import load_prompt
from stepagent.config.settings import OptimizeSettings
from stepagent.files.preference_rows import read_preferences
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.dpo import optimize_model
from stepagent.training.pairs import load_pairs
from stepagent.training.trainer import Monitor

CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
USER = {"role": "user", "content": "1+1"}


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ROWS = {
    "Step-DPO": {
        "prompt": "1+1",
        "initial_reason_steps": "so:",
        "chosen": "2",
        "rejected": "3",
        "answer": "2",
    },
    "conversational": {"prompt": [USER], "chosen": reply("2"), "rejected": reply("3")},
    "conversational, implicit prompt": {"chosen": [USER, *reply("2")], "rejected": [USER, *reply("3")]},
    "standard": {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    "standard, implicit prompt": {"chosen": "1+1= 2", "rejected": "1+1= 3"},
}
MEANT = {
    "Step-DPO": ("<|user|>1+1<|assistant|>so:", "2", False),
    "conversational": ("<|user|>1+1<|assistant|>", "2", True),
    "conversational, implicit prompt": ("<|user|>1+1<|assistant|>", "2", True),
    "standard": ("1+1=", "2", True),
    "standard, implicit prompt": ("1+1=", " 2", True),
}


def tokenizer_with_a_merge(folder: Path) -> ChatTokenizer:
    """Bytes, and one merge: "=" followed by "2" is a single token. It is written to `folder` and read from there."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: index for index, word in enumerate([*alphabet, "=2", "<end>"])}
    tokenizer = Tokenizer(models.BPE(words, [("=", "2")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", chat_template=CHAT).save_pretrained(folder)
    (folder / "config.json").write_text("{}")
    return ChatTokenizer(folder)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_becomes_the_tokens_it_means(kind: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_with_a_merge(tmp_path / "model")
    pairs = load_pairs(write(tmp_path / "p.jsonl", ROWS[kind]), tokenizer, 100, vocabulary=len(tokenizer))
    ((chosen, rejected),) = pairs.units
    context, step, ends = MEANT[kind]
    assert tokenizer.text(chosen.ids) == context + step + "<end>" * ends
    assert tokenizer.text(rejected.ids) == context + step.replace("2", "3") + "<end>" * ends


def test_where_a_token_crosses_the_boundary_the_step_begins_before_it(tmp_path: Path) -> None:
    """The context ends in "=", and "=2" is one token: both steps are scored from the "=" on."""
    tokenizer = tokenizer_with_a_merge(tmp_path / "model")
    data = write(tmp_path / "p.jsonl", ROWS["standard"], ROWS["Step-DPO"])
    pairs = load_pairs(data, tokenizer, 100, vocabulary=len(tokenizer))
    chosen, rejected = pairs.units[0]
    assert pairs.moved_boundaries == 1
    assert [tokenizer.text(t.ids[t.start :]) for t in (chosen, rejected)] == ["=2<end>", "=3<end>"]
    assert [len(t.ids) - t.start for t in (chosen, rejected)] == [2, 3]


def test_a_question_is_put_into_the_prompt_of_the_generator(tmp_path: Path) -> None:
    data = write(tmp_path / "p.jsonl", ROWS["Step-DPO"])
    ((_, row),) = read_preferences(data, load_prompt("demo_solve", ("question",)))
    assert row.turns[0].content == load_prompt("demo_solve", ("question",)).messages({"question": "1+1"})[0].content


def test_a_dataset_folder_is_read_like_a_hub_id(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    Dataset.from_list([ROWS["conversational"]] * 3).to_parquet(folder / "train.parquet")
    rows = list(read_preferences(folder))
    assert [place for place, _ in rows] == [f"{folder} row {i}" for i in range(3)]
    with pytest.raises(DataError, match="set:test: neither a file nor a dataset"):
        list(read_preferences(f"{folder}:test"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "1"}, "not a preference row"),
        ({"prompt": "x", "chosen": 1, "rejected": "b"}, "it holds prompt, chosen, rejected"),
        ({"prompt": [USER], "chosen": ["2"], "rejected": ["3"]}, "a turn needs 'role' and 'content'"),
        ({"prompt": [USER], "chosen": [USER], "rejected": reply("3")}, "differ in one assistant turn"),
        ({"prompt": "1+1", "chosen": reply("2"), "rejected": reply("3")}, "'prompt' must be a list of turns"),
    ],
)
def test_a_row_of_no_known_format_is_named(row: object, message: str, tmp_path: Path) -> None:
    data = write(tmp_path / "p.jsonl", ROWS["standard"], row)
    with pytest.raises(DataError, match=rf"p\.jsonl:2: .*{message}"):
        list(read_preferences(data))


def test_foreign_rows_train(quiet: Monitor, base_model: Path, tmp_path: Path) -> None:
    rows = [{**ROWS["conversational"], "prompt": [{"role": "user", "content": f"{i}+1"}]} for i in range(6)]
    settings = OptimizeSettings(learning_rate=1e-3, epochs=6, batch_size=6)
    data = write(tmp_path / "p.jsonl", *rows)
    report = optimize_model(base_model, data, tmp_path / "out", settings=settings, seed=0, monitor=quiet)
    assert report["pairs"] == 6
    assert report["accuracy"] == 1
    assert ChatTokenizer(tmp_path / "out").end_id
