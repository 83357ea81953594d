"""A merge that would fail is found before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf

from stepagent import ModelError, StepPreference
from stepagent.config.settings import LoraSettings, OptimizeSettings
from stepagent.files.jsonl import write_rows
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training import rehearsal
from stepagent.training.dpo import optimize_model
from stepagent.training.rehearsal import shallow


def optimize(
    model: Path, folder: Path, preference: Callable[..., StepPreference], monitor: object, lora: LoraSettings
) -> None:
    tokenizer = ChatTokenizer(model)
    write_rows(folder / "p.jsonl", [preference(tokenizer, "1+1=2\n", "1+1=3\n", problem_id="a")])
    settings = OptimizeSettings(lora=lora)
    optimize_model(model, folder / "p.jsonl", folder / "out", settings=settings, seed=0, monitor=monitor)


def test_a_model_that_cannot_be_written_is_not_trained(
    random_model: Path,
    tmp_path: Path,
    preference: Callable[..., StepPreference],
    quiet: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forget(layer: torch.nn.Module, dtype: torch.dtype) -> tuple[float, float]:
        return 0.0, 0.0  # merges nothing

    monkeypatch.setattr("stepagent.training.streamed_merge.merge_layer", forget)
    monkeypatch.setattr(rehearsal, "_rehearsed", set())
    with pytest.raises(ModelError, match="could not be written down, so none begins: merged: the merged model"):
        optimize(random_model, tmp_path, preference, quiet, LoraSettings())
    assert {path.name for path in tmp_path.iterdir()} == {"p.jsonl"}, "no checkpoint, no rest of the rehearsal"


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_layers_that_share_weights_are_no_targets(
    random_model: Path, tmp_path: Path, preference: Callable[..., StepPreference], quiet: object, target: str
) -> None:
    tied = tmp_path / "tied"
    config = hf.AutoConfig.from_pretrained(random_model)
    config.tie_word_embeddings = True
    hf.Qwen2ForCausalLM(config).save_pretrained(tied)
    ChatTokenizer(random_model).save(tied)
    with pytest.raises(ModelError, match=rf"lora.targets: .*{target} shares its weights with another layer"):
        optimize(tied, tmp_path, preference, quiet, LoraSettings(targets=(target,)))
    assert not (tmp_path / "out").exists()


def test_a_shallow_config_has_every_kind_of_layer() -> None:
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    config = hf.Qwen3NextConfig(num_hidden_layers=12, layer_types=kinds * 3)
    fewer = shallow(config)
    assert fewer.num_hidden_layers == 4
    assert fewer.layer_types == kinds
    assert config.num_hidden_layers == 12, "the config itself stays"
    assert shallow(hf.DeepseekV3Config(num_hidden_layers=20, first_k_dense_replace=3)).num_hidden_layers == 4
