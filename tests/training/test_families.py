"""Packed scoring equals plain scoring for every model family we claim; others are recognised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from families import check_family
from tiny_families import MOST_USED, tiny_model

from stepagent.training import probing
from stepagent.training.attention import TRIE
from stepagent.training.loss import dpo_loss
from stepagent.training.packing import Unit, make_packs
from stepagent.training.probing import pick_scoring
from stepagent.training.scoring import Score, packed_logprobs, path_logprobs, plain_logprobs

Units = Callable[..., list[Unit]]

SIZES = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
FAMILIES = {
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM),
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM),
    "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM),
}


ATTENTIONS = [TRIE, "sdpa", "eager"]


def make(family: str) -> Any:
    torch.manual_seed(0)
    config, model = FAMILIES[family]
    network = model(config(**SIZES))
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def loss_and_gradient(model: Any, score: Score, units: list[Unit], budget: int) -> tuple[Any, Any, Any]:
    """Log-probs of every target, the mean DPO loss against a fixed reference, and the gradient."""
    model.zero_grad()
    logprobs = torch.cat([score(model, pack) for pack in make_packs(enumerate(units), budget)])
    policy = logprobs.view(-1, 2)
    losses, _ = dpo_loss(policy, policy.detach() + torch.tensor([0.3, -0.2]), beta=0.5)
    losses.mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return logprobs.detach(), losses.mean().detach(), gradient.clone()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [64, 2048])
def test_float32(random_units: Units, family: str, budget: int, attention: str) -> None:
    model = make(family)
    model.set_attn_implementation(attention)
    units = random_units(3, 16)
    packed = loss_and_gradient(model, packed_logprobs, units, budget)
    plain = loss_and_gradient(model, plain_logprobs, units, budget)
    lengths = torch.tensor([len(t.ids) - t.start for unit in units for t in unit])
    assert ((packed[0] - plain[0]).abs() / lengths).max() < 2e-5
    assert (packed[1] - plain[1]).abs() < 2e-5
    assert (packed[2] - plain[2]).norm() < 1e-4 * plain[2].norm()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [64, 2048])
def test_float64(
    random_units: Units, family: str, budget: int, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms and rotary embeddings round to float32 whatever the model's dtype; here they may not."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    model = make(family).double()
    model.set_attn_implementation(attention)
    units = random_units(4, 16)
    packed = loss_and_gradient(model, packed_logprobs, units, budget)
    plain = loss_and_gradient(model, plain_logprobs, units, budget)
    assert torch.allclose(packed[0], plain[0], rtol=0, atol=1e-9)
    assert torch.allclose(packed[1], plain[1], rtol=0, atol=1e-9)
    assert torch.allclose(packed[2], plain[2], rtol=0, atol=1e-9)
    assert not math.isnan(packed[1])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_attention_sees_the_same_trie(random_units: Units, family: str) -> None:
    """On a CPU it has no gradients, and compiling it would take a compiler; the block mask is the same."""
    model = make(family)
    (pack,) = make_packs(enumerate(random_units(8, 8)), 2048)
    torch.compiler.set_stance("force_eager")
    try:
        with torch.no_grad():
            sdpa = packed_logprobs(model, pack)
            model.set_attn_implementation("flex_attention")
            assert torch.allclose(packed_logprobs(model, pack), sdpa, atol=1e-4)
    finally:
        torch.compiler.set_stance("default")


@pytest.mark.parametrize("family", FAMILIES)
def test_suited_models_are_packed(random_units: Units, family: str) -> None:
    model = make(family)
    assert pick_scoring(model, random_units(5, 6), 512)[:3] == (packed_logprobs, 512, "")
    assert model.config._attn_implementation == TRIE


def test_the_dropout_of_a_config_is_off(random_units: Units) -> None:
    """The reference is scored without it, so the policy is, too."""
    torch.manual_seed(0)
    model = hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES, attention_dropout=0.5)).train()
    assert pick_scoring(model, random_units(5, 6), 512)[:3] == (packed_logprobs, 512, "")
    assert model.config._attn_implementation == TRIE


def test_without_flex_attention_a_model_takes_the_dense_mask(
    random_units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_fastest", lambda *_: "flex_attention")
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    stable = hf.StableLmForCausalLM(hf.StableLmConfig(**sizes)).eval()
    assert pick_scoring(stable, random_units(5, 6), 512)[:3] == (packed_logprobs, 512, "")
    assert stable.config._attn_implementation == "sdpa"


def test_a_window_without_layer_types_is_seen(random_units: Units) -> None:
    torch.manual_seed(0)
    mistral = hf.MistralForCausalLM(hf.MistralConfig(**SIZES, sliding_window=16)).eval()
    way = pick_scoring(mistral, random_units(6, 6), 512).way
    assert way.startswith("path by path: sequences of 4")
    assert way.endswith("outgrow the model's sliding window of 16")


@pytest.mark.parametrize(
    "model",
    [
        (hf.Gemma2ForCausalLM, hf.Gemma2Config(**SIZES, sliding_window=16)),
        (hf.BloomForCausalLM, hf.BloomConfig(vocab_size=31, hidden_size=32, n_layer=2, n_head=4)),
    ],
)
def test_models_that_cannot_be_packed_are_scored_path_by_path(random_units: Units, model: Any) -> None:
    torch.manual_seed(0)
    kind, config = model
    network, units = kind(config), random_units(6, 6)
    scoring = pick_scoring(network, units, 512)
    assert scoring.by_paths
    shared = loss_and_gradient(network, path_logprobs, units, 60)
    plain = loss_and_gradient(network, plain_logprobs, units, 60)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(shared, plain, strict=True))


def test_a_path_whose_rotary_frequencies_change_is_no_path(random_units: Units) -> None:
    """A prefix that is shorter than the switch has other positions alone than on a path that is longer."""
    scoring = pick_scoring(tiny_model("phi3-longrope"), random_units(6, 6), 512)
    assert scoring.way.startswith("one target at a time: ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", MOST_USED)
def test_the_most_used_families_hold(family: str) -> None:
    """Windows, chunks and rotary switches are outgrown; defaults of dropout and router noise are kept."""
    row = check_family(family)
    assert row["training"] in ("packed", "paths", "plain"), row
    assert row["lora_merge"] == row["full_save"] == "ok", row
    assert row["in_process"] in ("ok", "slow"), row
