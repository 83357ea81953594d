"""Weights that a lost disk cut off: such a model is made again, such a checkpoint is passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stepagent.models.folders import holds_whole_weights, unless_made
from stepagent.training.trainer import last_checkpoint


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"a": torch.arange(8.0), "b": torch.zeros(2, 3)}, folder / "model.safetensors", {"format": "pt"})
    torch.save({"step": 1}, folder / "optimizer.pt")
    return folder


def cut(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count])


def test_a_whole_model_is_not_made_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "M_1")
    assert holds_whole_weights(folder)
    unless_made(folder, lambda: pytest.fail("made again"))


@pytest.mark.parametrize(("name", "count"), [("model.safetensors", 1), ("model.safetensors", 60), ("optimizer.pt", 30)])
def test_a_model_that_was_cut_off_is_made_again(name: str, count: int, tmp_path: Path) -> None:
    folder = make(tmp_path / "M_1")
    cut(folder / name, count)
    unless_made(folder, lambda: make(folder))
    assert holds_whole_weights(folder)
    assert not holds_whole_weights(tmp_path / "M_1.stale")


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 40, (2).to_bytes(8, "little") + b"[]"])
def test_a_file_that_is_no_safetensors_is_not_whole(content: bytes, tmp_path: Path) -> None:
    folder = make(tmp_path / "M_1")
    (folder / "model.safetensors").write_bytes(content)
    assert not holds_whole_weights(folder)


def test_a_training_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path: Path) -> None:
    for step in (2, 4):
        folder = make(tmp_path / f"checkpoint-{step}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    cut(tmp_path / "checkpoint-4" / "optimizer.pt", 30)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
