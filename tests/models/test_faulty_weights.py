"""Weights that are cut, missing, foreign or of another shape: one sentence each; other forms of whole weights load."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from model_faults import (
    CPU,
    DOORS,
    LFS_POINTER,
    Fault,
    Spoil,
    all_of,
    as_shards,
    as_torch_file,
    assert_refused,
    cases,
    copy_of,
    cut,
    renamed_tensors,
    with_config,
    with_file,
    without_files,
    without_tensors,
)
from safetensors.torch import load_file, save_file

from stepagent.models.loading import load_model

AGAIN = "download it again"


def two_shards(*faults: Spoil) -> Spoil:
    return all_of(as_shards, *faults)


WEIGHTS = [
    Fault("no lm_head", without_tensors("lm_head"), AGAIN),
    Fault("no embeddings", without_tensors("embed_tokens"), AGAIN),
    Fault("a layer is missing", without_tensors("layers.1."), AGAIN),
    Fault("one norm is missing", without_tensors("layers.0.input_layernorm"), AGAIN),
    Fault("prefix of another family", renamed_tensors(r"^model\.", "transformer."), AGAIN),
    Fault("prefix of torch.compile", renamed_tensors("^", "_orig_mod."), AGAIN),
    Fault("prefix of an unmerged adapter", renamed_tensors("^", "base_model.model."), AGAIN),
    Fault("more layers in config.json", with_config("layer_types", num_hidden_layers=3), AGAIN),
    Fault(
        "fewer layers in config.json",
        with_config("layer_types", num_hidden_layers=1),
        "config.json",
    ),
    Fault(
        "a family without biases",
        with_config(model_type="llama", architectures=["LlamaForCausalLM"]),
        "config.json",
    ),
    Fault("another vocabulary", with_config(vocab_size=999), "config.json.*download both again"),
    Fault("another hidden size", with_config(hidden_size=64), "config.json.*download both again"),
    Fault("another width", with_config(intermediate_size=80), "config.json.*download both again"),
    Fault("Git LFS pointer", with_file("model.safetensors", LFS_POINTER), "git lfs pull"),
    Fault("Git LFS pointer in .bin", all_of(as_torch_file, with_file("pytorch_model.bin", LFS_POINTER)), "lfs pull"),
    Fault("Git LFS pointer for a shard", two_shards(with_file("two.safetensors", LFS_POINTER)), "git lfs pull"),
    Fault("cut in the middle", cut("model.safetensors", 0.5), AGAIN),
    Fault("cut in the header", cut("model.safetensors", 0.001), AGAIN),
    Fault("cut by a byte", cut("model.safetensors", 0.99999), AGAIN),
    Fault("a cut .bin", all_of(as_torch_file, cut("pytorch_model.bin", 0.5)), AGAIN),
    Fault("a cut shard", two_shards(cut("two.safetensors", 0.5)), AGAIN),
    Fault("empty", with_file("model.safetensors", b""), AGAIN),
    Fault("empty .bin", all_of(as_torch_file, with_file("pytorch_model.bin", b"")), AGAIN),
    Fault("a web page", with_file("model.safetensors", "<!doctype html><title>Log in</title>"), AGAIN),
    Fault("no weights", without_files("model.safetensors"), "no weights.*download it again"),
    Fault("an index without a shard", two_shards(without_files("two.safetensors")), "two.*download it again"),
    Fault("an index that is cut", two_shards(cut("model.safetensors.index.json", 0.5)), AGAIN),
    Fault("an index of no shards", two_shards(with_file("model.safetensors.index.json", "{}")), AGAIN),
    Fault(
        "a shard that lacks its tensors",
        two_shards(lambda folder: save_file({"x": torch.ones(1)}, folder / "two.safetensors", {"format": "pt"})),
        AGAIN,
    ),
    Fault(
        "only a trainer's files",
        all_of(without_files("model.safetensors"), with_file("training_args.bin", b"x" * 99)),
        "weights.*download it again",
    ),
    Fault(
        "only consolidated weights",
        lambda folder: (folder / "model.safetensors").rename(folder / "consolidated.safetensors"),
        "model.safetensors.*download",
    ),
    Fault(
        "only GGUF weights",
        all_of(without_files("model.safetensors"), with_file("m.gguf", b"GGUF")),
        "GGUF",
    ),
]


@pytest.mark.parametrize(("fault", "door"), cases(WEIGHTS))
def test_faulty_weights_are_refused_in_one_sentence(
    random_model: Path, tmp_path: Path, fault: Fault, door: str
) -> None:
    folder = copy_of(random_model, tmp_path / "m", fault.spoil)
    assert_refused(lambda: DOORS[door](folder), folder, fault.remedy)


GOOD = {
    "shards": as_shards,
    "bin": as_torch_file,
    "no packing": with_config(quantization_config=None),
    "custom code beside a family that Transformers has": with_config(auto_map={"AutoModelForCausalLM": "mine.Model"}),
    "consolidated weights beside": lambda folder: shutil.copy(
        folder / "model.safetensors", folder / "consolidated.safetensors"
    ),
    "a trainer's files beside": with_file("optimizer.bin", b"x" * 99),
    "no architectures": with_config("architectures"),
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in GOOD.items()])
@pytest.mark.parametrize("door", DOORS)
def test_a_whole_model_in_another_form_loads_whole(
    random_model: Path, tmp_path: Path, change: Spoil, door: str
) -> None:
    folder = copy_of(random_model, tmp_path / "m", change)
    DOORS[door](folder)
    weights = load_model(folder, torch.float32, CPU).state_dict()
    for name, weight in load_file(random_model / "model.safetensors").items():
        assert torch.equal(weights[name], weight)
