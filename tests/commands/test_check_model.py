"""`stepagent check-model`: what a run would do with a folder, or one sentence on why it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tiny_families import tiny_model

from stepagent.demo.make_base import make_tokenizer

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """Maker of the folder of a tiny model."""

    def make(family: str) -> Path:
        tiny_model(family).save_pretrained(tmp_path / family)
        make_tokenizer().save_pretrained(tmp_path / family)
        return tmp_path / family

    return make


def value(output: str, name: str) -> str:
    """The words of a row of the table."""
    (line,) = [line for line in output.splitlines() if line.startswith(f"│ {name} ")]
    return line.split("│")[2].strip()


@pytest.mark.filterwarnings("ignore")
def test_it_says_what_a_run_will_do(stepagent: Command, folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = folder("qwen3_moe")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    result = stepagent("check-model", model)
    assert result.returncode == 0, result.stderr
    assert value(result.stdout, "family") == "qwen3_moe"
    assert value(result.stdout, "turn ends with") == "'<|end|>'"
    assert value(result.stdout, "training") == "packed trees"
    assert value(result.stdout, "written and read back") == "equal"
    assert value(result.stdout, "in process") == "all requests in one batch"
    trained = value(result.stdout, "trained")
    assert "experts.down_proj (4)" in trained
    assert "q_proj (4)" in trained
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


@pytest.mark.filterwarnings("ignore")
def test_it_takes_the_settings_of_a_run(
    stepagent: Command, folder: Callable[[str], Path], config: Path, tmp_path: Path
) -> None:
    model = folder("falcon_mamba")
    result = stepagent("check-model", model, "--config", config, "--set", "optimize.lora=null")
    assert result.returncode == 0, result.stderr
    assert value(result.stdout, "trained").endswith("all weights")
    assert value(result.stdout, "training").startswith("path by path: its layers carry a state")
    assert value(result.stdout, "in process").startswith("it runs with its own cache")


def test_a_faulty_folder_is_one_sentence(stepagent: Command, random_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(random_model, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    result = stepagent("check-model", broken)
    assert result.returncode == 2
    assert result.stderr.count("\n") <= 2, result.stderr
    assert "the weights are not of this config.json: download both again" in result.stderr


def test_changes_of_settings_need_a_config(stepagent: Command, random_model: Path) -> None:
    result = stepagent("check-model", random_model, "--set", "optimize.lora=null")
    assert result.returncode == 2
    assert "give one with --config" in result.stderr
