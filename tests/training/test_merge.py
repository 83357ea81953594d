"""Adapters and their merge into a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from stepagent import ModelError, ParityError, StepPreference
from stepagent.config.settings import LoraSettings, OptimizeSettings, TrainSettings
from stepagent.files.jsonl import write_rows
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.dpo import optimize_model
from stepagent.training.layers import surviving
from stepagent.training.merge import TrainedModel, save_merged
from stepagent.training.trainer import Monitor

Preference = Callable[..., StepPreference]

CPU = torch.device("cpu")


def test_an_adapter_trained_in_bfloat16_is_merged_in_float32(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    write_rows(tmp_path / "p.jsonl", [preference(tokenizer, f"{i}+1=2\n", f"{i}+1=3\n") for i in range(8)])
    settings = OptimizeSettings(learning_rate=5e-3, beta=0.5, epochs=4, batch_size=4, dtype="bfloat16")
    report = optimize_model(
        random_model, tmp_path / "p.jsonl", tmp_path / "out", settings=settings, seed=0, monitor=quiet
    )
    assert report["parity"] < 1e-3
    assert {p.dtype for p in load_model(tmp_path / "out", torch.float32, CPU).parameters()} == {torch.float32}


def test_an_adapter_is_not_a_model_and_4_bits_need_a_gpu(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    write_rows(tmp_path / "p.jsonl", [preference(tokenizer, f"{i}+1=2\n", f"{i}+1=3\n") for i in range(8)])
    settings = OptimizeSettings(epochs=1)
    optimize_model(random_model, tmp_path / "p.jsonl", tmp_path / "out", settings=settings, seed=0, monitor=quiet)
    with pytest.raises(ModelError, match="adapter: an adapter, not a model; merge it into its base"):
        optimize_model(
            tmp_path / "out" / "adapter", tmp_path / "p.jsonl", tmp_path / "b", settings=settings, seed=0, monitor=quiet
        )
    settings = OptimizeSettings(lora=LoraSettings(quantize="4bit"))
    with pytest.raises(ModelError, match="4-bit training needs a CUDA device"):
        optimize_model(random_model, tmp_path / "p.jsonl", tmp_path / "b", settings=settings, seed=0, monitor=quiet)


def test_how_much_of_an_update_survives_rounding() -> None:
    """bfloat16 steps near 1 are 2^-7 wide: an update of 2^-7 survives whole, one of 2^-10 not at all."""
    before = torch.ones(4)
    assert surviving(before, before + 2**-7, torch.bfloat16) == (4 * 2**-14, 4 * 2**-14)
    assert surviving(before, before + 2**-10, torch.bfloat16) == (0, 4 * 2**-20)


def test_a_merge_that_changes_the_outputs_gets_no_final_name(random_model: Path, tmp_path: Path) -> None:
    class Forgetful(type(load_model(random_model, torch.float32, CPU))):
        def save_pretrained(self, folder: Path, state_dict: dict[str, torch.Tensor], **options: object) -> None:
            zeros = {name: torch.zeros_like(weight) for name, weight in state_dict.items()}
            super().save_pretrained(folder, state_dict=zeros, **options)

    model = load_model(random_model, torch.float32, CPU)
    model.__class__ = Forgetful
    tokenizer, out = ChatTokenizer(random_model), tmp_path / "out"
    trained = TrainedModel(model, tokenizer, random_model, TrainSettings(lora=None))
    with pytest.raises(ParityError, match="the written model is not the trained one"):
        save_merged(Accelerator(cpu=True), trained, out, probes=[(2, 7, 8)], made_from={})
    assert not (tmp_path / "out").exists()
