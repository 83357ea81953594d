"""Folders that hold no whole model, or none that can be trained: one sentence each, before anything is spent."""

from __future__ import annotations

import json
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
    assert_refused,
    cases,
    copy_of,
    cut,
    renamed_tensors,
    with_config,
    with_file,
    with_tensors,
    without_files,
    without_tensors,
)
from safetensors.torch import save_file
from transformers import AutoModelForTokenClassification

from stepagent.models.loading import load_model

AGAIN = "download it again"


def beside_an_adapter(folder: Path) -> None:
    adapter = {"base_model_name_or_path": "base", "peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{layer}.lora_A.weight": torch.ones(1, 32), f"{layer}.lora_B.weight": torch.ones(32, 1)}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def as_reward_model(folder: Path) -> None:
    with_tensors(lambda tensors: {**tensors, "score.weight": torch.ones(1, 32)})(folder)
    without_tensors("lm_head")(folder)


def packed(method: str | None, **keys: object) -> Spoil:
    kind = {"quant_method": method} if method else {}
    return with_config(quantization_config={**kind, **keys})


FOREIGN = [
    Fault(
        "a reward model",
        all_of(as_reward_model, with_config(architectures=["Qwen2ForSequenceClassification"])),
        "reward model.*judge.backend",
    ),
    Fault("a reward model that does not say so", all_of(as_reward_model, with_config("architectures")), "score.weight"),
    Fault(
        "a process reward model",
        all_of(as_reward_model, with_config(architectures=["Qwen2ForProcessRewardModel"])),
        "reward model|score.weight",
    ),
    Fault(
        "a step classifier",
        all_of(as_reward_model, with_config(architectures=["Qwen2ForTokenClassification"])),
        "classifier.*judge.backend",
    ),
    Fault("an adapter beside the weights", beside_an_adapter, "adapter.*move"),
    Fault(
        "an adapter alone",
        all_of(beside_an_adapter, without_files("config.json", "model.safetensors")),
        "adapter.*merged",
    ),
    Fault(
        "an adapter with its base's config",
        all_of(beside_an_adapter, without_files("model.safetensors")),
        "adapter.*merge",
    ),
    Fault("GPTQ", packed("gptq", bits=4, group_size=128), "GPTQ.*bfloat16"),
    Fault("AWQ", packed("awq", bits=4, group_size=128), "AWQ.*bfloat16"),
    Fault("bitsandbytes", packed("bitsandbytes", load_in_4bit=True), "bitsandbytes.*bfloat16"),
    Fault(
        "bitsandbytes of an older version",
        packed(None, load_in_4bit=True),
        "bitsandbytes.*bfloat16",
    ),
    Fault("FP8", packed("fp8", weight_block_size=[128, 128]), "FP8.*bfloat16"),
    Fault("compressed-tensors", packed("compressed-tensors", format="pack-quantized"), "compressed.*bfloat16"),
    Fault("a packing of the future", packed("int3-dense"), "int3-dense.*bfloat16"),
    Fault(
        "a packing that is no object",
        with_config(quantization_config="int4"),
        "quantization_config",
    ),
    Fault(
        "GPTQ that says so in another file",
        all_of(
            renamed_tensors(r"_proj\.weight$", "_proj.qweight"),
            with_file("quantize_config.json", '{"bits": 4}'),
        ),
        "GPTQ|bfloat16",
    ),
]

CONFIG = [
    Fault("config.json is cut", cut("config.json", 0.5), "config.json.*download it again"),
    Fault("config.json is empty", with_file("config.json", ""), "config.json.*download it again"),
    Fault(
        "config.json is a web page",
        with_file("config.json", "<!doctype html>"),
        "config.json.*download it again",
    ),
    Fault(
        "config.json is a list",
        with_file("config.json", "[]"),
        "config.json.*download it again",
    ),
    Fault(
        "config.json is a Git LFS pointer",
        with_file("config.json", LFS_POINTER),
        "git lfs pull",
    ),
    Fault("an unknown model_type", with_config(model_type="qwen9"), "qwen9.*upgrade transformers"),
    Fault("no model_type", with_config("model_type"), "model_type"),
    Fault("a model_type of no text model", with_config(model_type="vit"), "vit|language model"),
    Fault(
        "a hidden size in letters",
        with_config(hidden_size="large"),
        "config.json.*(mend|download)",
    ),
    Fault("heads that do not divide", with_config(num_attention_heads=5), "config.json"),
    Fault(
        "an unknown precision",
        with_config("torch_dtype", dtype="float7"),
        r"float7.*[^_]config\.json",
    ),
    Fault("flash attention", with_config(attn_implementation="flash_attention_2"), "remove attn_implementation"),
    Fault("flash attention, spelt privately", with_config(_attn_implementation="flash_attention_2"), "attn_impl"),
    Fault(
        "generation_config.json is cut",
        cut("generation_config.json", 0.5),
        "generation_config.json",
    ),
    Fault(
        "custom code of an unknown family",
        with_config(model_type="mine", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}),
        "custom code|Transformers knows",
    ),
    Fault("no config.json", without_files("config.json"), "config.json is missing.*give the folder"),
    Fault(
        "GGUF alone",
        all_of(without_files("*"), with_file("model-q4.gguf", b"GGUF")),
        r"GGUF.*\*\.safetensors",
    ),
    Fault("an empty folder", without_files("*"), "config.json is missing.*give the folder"),
    Fault("a folder that is not there", shutil.rmtree, "no such model folder"),
    Fault(
        "a file in place of the folder",
        all_of(shutil.rmtree, lambda folder: folder.write_bytes(b"GGUF")),
        "a file; give the folder",
    ),
]


@pytest.mark.parametrize(("fault", "door"), cases([*FOREIGN, *CONFIG]))
def test_a_faulty_folder_is_refused_in_one_sentence(
    random_model: Path, tmp_path: Path, fault: Fault, door: str
) -> None:
    folder = copy_of(random_model, tmp_path / "m", fault.spoil)
    assert_refused(lambda: DOORS[door](folder), folder, fault.remedy)


def as_step_classifier(folder: Path) -> None:
    head = {"score.weight": torch.ones(2, 32), "score.bias": torch.ones(2)}
    with_tensors(lambda tensors: {**tensors, **head})(folder)
    without_tensors("lm_head")(folder)


READERS = [
    Fault("a causal model read as a step classifier", lambda folder: None, "score"),
    Fault("a packed step classifier", packed("gptq", bits=4), "GPTQ"),
    Fault(
        "an adapter beside a step classifier",
        all_of(as_step_classifier, beside_an_adapter),
        "adapter.*move",
    ),
    Fault("a cut step classifier", cut("model.safetensors", 0.5), AGAIN),
]


@pytest.mark.parametrize("fault", [pytest.param(row, id=row.name) for row in READERS])
def test_a_faulty_reward_model_is_refused_in_one_sentence(random_model: Path, tmp_path: Path, fault: Fault) -> None:
    folder = copy_of(random_model, tmp_path / "m", fault.spoil)
    kind = AutoModelForTokenClassification
    assert_refused(lambda: load_model(folder, torch.float32, CPU, kind=kind), folder, fault.remedy)


@pytest.mark.parametrize("door", DOORS)
def test_a_folder_named_as_a_hub_id_is_missed_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_refused(lambda: DOORS[door](Path("runs/M_1")), Path("runs/M_1"), "no such model folder|not in the hub")
