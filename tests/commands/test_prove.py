"""`stepagent prove`: which model a server serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from tiny_server import TinyServer
from transformers import AutoModelForCausalLM

from stepagent.demo.make_base import make_tokenizer

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def changed(random_model: Path, tmp_path: Path) -> Path:
    """Folder of a model whose weights have moved a little, as a training moves them."""
    model = AutoModelForCausalLM.from_pretrained(random_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * parameter.abs().mean() * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "changed")
    make_tokenizer().save_pretrained(tmp_path / "changed")
    return tmp_path / "changed"


@pytest.fixture
def server(random_model: Path) -> Iterator[TinyServer]:
    """A server of the model before the change."""
    tiny = TinyServer(random_model)
    yield tiny
    tiny.close()


def test_the_served_model_is_told_from_the_one_before(
    stepagent: Command, server: TinyServer, random_model: Path, changed: Path
) -> None:
    result = stepagent("prove", server.url, random_model, "--against", changed)
    assert result.returncode == 0, result.stderr
    assert "proven" in result.stdout
    result = stepagent("prove", server.url, changed, "--against", random_model)
    assert result.returncode == 2
    assert "lies with the previous model" in result.stderr
    server.swap(changed)
    assert stepagent("prove", server.url, changed, "--against", random_model).returncode == 0
    assert "near" in stepagent("prove", server.url, changed).stdout


def test_sequences_of_a_training_are_compared(
    stepagent: Command, server: TinyServer, random_model: Path, tmp_path: Path
) -> None:
    data = tmp_path / "preferences.jsonl"
    data.write_text(json.dumps({"prompt_ids": [1, 2, 3, 4], "chosen_ids": [5, 6]}) + "\n")
    result = stepagent("prove", server.url, random_model, "--data", data)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "tokens compared" in line]
    assert line.split("│")[2].strip() == "5", "each token after the first"
    data.write_text('{"question": "?"}\n')
    result = stepagent("prove", server.url, random_model, "--data", data)
    assert result.returncode == 2
    assert f"{data}: no row has prompt_ids and chosen_ids" in result.stderr


def test_a_server_or_a_folder_that_is_not_there_is_a_sentence(
    stepagent: Command, server: TinyServer, random_model: Path
) -> None:
    result = stepagent("prove", "http://127.0.0.1:9/v1", random_model)
    assert result.returncode == 2
    assert "http://127.0.0.1:9/v1" in result.stderr
    result = stepagent("prove", server.url, random_model.parent / "nowhere")
    assert result.returncode == 2
    assert "nowhere" in result.stderr
