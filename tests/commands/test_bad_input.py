"""Folders that are no model for the purpose, and answers that cannot be read, at every command: one sentence with the
remedy, exit code 2, nothing sampled, nothing trained, nothing written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from safetensors.torch import save_file

Command = Callable[..., CompletedProcess[str]]

CONFIG = """
model: m
problems: problems.jsonl
backend: {kind: KIND}
init: {ift: ift.jsonl}
evaluate: {problems: held_out.jsonl}
"""
ADAPTER = {"base_model_name_or_path": "good", "peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}
WORKED = "48 / 2 = 24\n48 + 24 = 72\n#### 72"


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def as_gguf(folder: Path) -> None:
    empty(folder)
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def as_gguf_beside_its_config(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def as_gguf_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"GGUF")


def add_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{layer}.lora_A.weight": torch.ones(1, 32), f"{layer}.lora_B.weight": torch.ones(32, 1)}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def as_adapter(folder: Path) -> None:
    empty(folder)
    add_adapter(folder)


def as_adapter_beside_a_config(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    add_adapter(folder)


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


MODELS: list[tuple[Callable[[Path], None], str]] = [
    (as_gguf, r"m: GGUF weights; give the Transformers folder of this model \(\*\.safetensors\)"),
    (as_gguf_beside_its_config, r"m: only GGUF weights in the folder; download it again.* with \*\.safetensors"),
    (as_gguf_file, "m: a file; give the folder of a Transformers model"),
    (as_adapter, r"m: an adapter, not a model; merge it into its base \(stepagent merge\)"),
    (as_adapter_beside_a_config, r"m: an adapter, not a model; merge it into its base \(stepagent merge\)"),
    (without_template, "m: the tokenizer has no chat template; add chat_template.jinja"),
]
COMMANDS: dict[str, tuple[str, ...]] = {
    "init": ("init", "c.yaml", "--out", "out"),
    "search": ("search", "c.yaml", "--out", "out"),
    "optimize": ("optimize", "c.yaml", "--data", "p.jsonl", "--out", "out"),
    "evaluate": ("evaluate", "c.yaml", "--out", "out"),
    "merge": ("merge", "adapter", "--base", "m", "--out", "out"),
    "check-model": ("check-model", "m"),
    "deploy": ("deploy", "run"),
    "data ift": ("data", "ift", "c.yaml", "--source", "uncut.jsonl", "--out", "out", "--by-model"),
}


def write_rows(file: Path, rows: Iterable[object]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def place(random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the model `m`, a config, and data for all commands."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(random_model, "m")
    shutil.copytree(random_model, "adapter")
    as_adapter(Path("adapter"))
    answered = [{"question": f"1+{n}", "answer": str(1 + n)} for n in range(3)]
    write_rows(Path("problems.jsonl"), answered)
    write_rows(Path("held_out.jsonl"), [{**row, "question": f"2*{row['question']}"} for row in answered])
    write_rows(Path("ift.jsonl"), [{"question": "1+1", "solution": "1+1=2\n#### 2"}] * 3)
    write_rows(Path("uncut.jsonl"), [{"question": "1+1", "solution": "two"}])
    write_rows(Path("p.jsonl"), [{"prompt": "1+1=", "chosen": "2", "rejected": "9"}])
    Path("c.yaml").write_text(CONFIG.replace("KIND", "transformers"))
    Path("run").mkdir()
    served = "openai, base_url: 'http://127.0.0.1:9/v1', model: policy"
    Path("run/config.yaml").write_text(CONFIG.replace("KIND", served).replace("init: {ift: ift.jsonl}\n", ""))
    return tmp_path


def assert_one_sentence(result: CompletedProcess[str], sentence: str) -> None:
    """Assert that a command ended with this sentence as its only error."""
    text = " ".join(result.stderr.split())
    assert result.returncode == 2, text
    assert "Traceback" not in text
    assert text.count("error: ") == 1
    assert re.search(sentence, text), text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("spoil", "sentence"), MODELS)
def test_a_folder_that_is_no_model_for_it(
    place: Path, stepagent: Command, spoil: Callable[[Path], None], sentence: str, command: str
) -> None:
    spoil(place / "m")
    result = stepagent(*COMMANDS[command])
    assert_one_sentence(result, sentence)
    results = {"M_0", "trees.jsonl", "greedy.jsonl", "model.safetensors", "ift.jsonl"}
    assert not results & {path.name for folder in place.glob("out*") for path in folder.rglob("*")}


def test_a_folder_that_is_no_adapter(place: Path, stepagent: Command) -> None:
    assert_one_sentence(stepagent("merge", "m", "--out", "out"), "m: no adapter .*give the folder of a LoRA adapter")


ANSWERS: list[tuple[object, str]] = [
    (WORKED, "held_out.jsonl:1: the answer of problem '1' is a whole solution.*worked: true"),
    (r"So the total is $\boxed{72}$ pears in all.", "the answer of problem '1' is a whole solution.*worked: true"),
    ("It depends\non the weather", "the answer of problem '1' is a whole solution.*a column of final answers"),
    ({"value": 72}, "held_out.jsonl:1: 'answer' must be text, a number"),
    (None, "held_out.jsonl:1: problem '1' has no 'answer' to evaluate against; give it one"),
    ("  ", "held_out.jsonl:1: problem '1' has no 'answer' to evaluate against; give it one"),
]


@pytest.mark.parametrize("command", ["init", "evaluate"])
@pytest.mark.parametrize(("answer", "sentence"), ANSWERS)
def test_answers_that_cannot_be_read(
    place: Path, stepagent: Command, answer: object, sentence: str, command: str
) -> None:
    write_rows(place / "held_out.jsonl", [{"question": "How many pears?", "answer": answer}])
    assert_one_sentence(stepagent(*COMMANDS[command]), sentence)
    assert not (place / "out").exists() or not any((place / "out").glob("*.jsonl"))


def test_solutions_with_answers_that_cannot_be_read(place: Path, stepagent: Command) -> None:
    write_rows(place / "gsm8k.jsonl", [{"question": "How many pears?", "answer": WORKED}])
    words = ("--solution", "answer", "--answer", "answer", "--out", "out")
    result = stepagent("data", "ift", "c.yaml", "--source", "gsm8k.jsonl", *words)
    assert_one_sentence(result, r"no solution could be cut into steps \(1 of 1: an answer that is a whole solution\)")


def test_worked_answers_are_read_where_the_config_says_so(place: Path, stepagent: Command) -> None:
    """The remedy works: the sentence after it is another one, or none."""
    write_rows(place / "held_out.jsonl", [{"question": "How many pears?", "answer": WORKED}])
    held_out = "evaluate.problems={path: held_out.jsonl, worked: true}"
    result = stepagent("evaluate", "c.yaml", "--out", "out", "--set", held_out, "--set", "evaluate.search=false")
    assert "whole solution" not in result.stderr
