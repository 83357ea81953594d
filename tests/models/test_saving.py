"""What a written model holds: every tensor, every file, the base's own config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stepagent.config.settings import LoraSettings, TrainSettings
from stepagent.models.loading import load_model
from stepagent.models.saving import tensor_names
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.adapters import load_trainable
from stepagent.training.merge import TrainedModel, gather_weights, write_trained

CPU = torch.device("cpu")
PROBES = [(2, 7, 8, 9)]


@pytest.fixture
def base(random_model: Path, tmp_path: Path) -> Path:
    """A model folder as hubs ship them: with tensors for other readers, defaults that contradict each other, notes."""
    folder = tmp_path / "base"
    shutil.copytree(random_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.9.eh_proj.weight"] = torch.arange(6.0).view(2, 3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}')
    (folder / "LICENSE").write_text("ours")
    (folder / "modeling_own.py").write_text("# code")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1, "dtype": "bfloat16"}))
    return folder


def write(base: Path, out: Path, settings: TrainSettings) -> None:
    model = load_trainable(base, settings, CPU)
    write_trained(
        TrainedModel(model, ChatTokenizer(base), base, settings), gather_weights(model, True), out, probes=PROBES
    )


@pytest.mark.parametrize("lora", [LoraSettings(), None], ids=["LoRA", "full"])
def test_without_a_change_the_model_holds_what_its_base_holds(base: Path, tmp_path: Path, lora: LoraSettings) -> None:
    out = tmp_path / "out"
    write(base, out, TrainSettings(lora=lora))
    assert tensor_names(out).keys() == tensor_names(base).keys()
    written = {name: tensor for file in out.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for name, tensor in load_file(base / "model.safetensors").items():
        assert torch.equal(written[name], tensor), name
    for file in ("generation_config.json", "LICENSE", "modeling_own.py", "tokenizer.json", "chat_template.jinja"):
        assert (out / file).read_bytes() == (base / file).read_bytes(), file
    config, own = (json.loads((folder / "config.json").read_text()) for folder in (base, out))
    assert own == {**config, "dtype": "float32"}
    load_model(out, torch.float32, CPU)


def test_names_that_transformers_changes_are_the_bases_again(base: Path, tmp_path: Path) -> None:
    """Old checkpoints name their tensors without the prefix of the class; servers look for the names they know."""
    weights = load_file(base / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    save_file(renamed, base / "model.safetensors", {"format": "pt"})
    out = tmp_path / "out"
    write(base, out, TrainSettings())
    assert tensor_names(out).keys() == renamed.keys()


def test_buffers_come_along(tmp_path: Path) -> None:
    """The bias of a router is a buffer that training does not change, and that decides which experts work."""
    from tiny_families import tiny_model

    from stepagent.demo.make_base import make_tokenizer

    folder, out = tmp_path / "base", tmp_path / "out"
    tiny_model("deepseek_v3").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    write(folder, out, TrainSettings(lora=None))
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    bias = load_model(folder, torch.float32, CPU).state_dict()[name]
    assert bias.abs().sum() > 0
    assert torch.equal(load_model(out, torch.float32, CPU).state_dict()[name], bias)
