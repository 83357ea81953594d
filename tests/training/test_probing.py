"""The measurement before a training: it sees what will be trained, in the mode in which it will be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from tiny_families import tiny_model

from stepagent import ModelError
from stepagent.config.settings import LoraSettings
from stepagent.training import probing
from stepagent.training.adapters import add_adapter
from stepagent.training.mode import learning_mode
from stepagent.training.packing import Target, Unit, make_packs
from stepagent.training.probing import pick_scoring
from stepagent.training.scoring import full_logprobs, packed_logprobs

Units = Callable[..., list[Unit]]


def pair(prefix: int, chosen: int, rejected: int) -> Unit:
    context = tuple(3 + i % 20 for i in range(prefix))
    return tuple(Target((*context, *range(5, 5 + length)), prefix) for length in (chosen, rejected))


def test_a_rejected_step_alone_may_outgrow_the_window() -> None:
    model = tiny_model("gemma3_text")
    assert pick_scoring(model, [pair(8, 4, 8), pair(6, 3, 3)], 256).unsuited == ""
    outgrown = pick_scoring(model, [pair(8, 4, 9), pair(6, 3, 3)], 256)
    assert "17 tokens outgrow the model's sliding window of 16" in outgrown.unsuited


@pytest.mark.filterwarnings("ignore")
def test_a_pack_may_outgrow_what_its_sequences_do_not() -> None:
    """GPT-Neo's window counts places in the pack."""
    model = tiny_model("gpt_neo")
    assert pick_scoring(model, [pair(4, 3, 3)], 256).score is packed_logprobs
    trunk = (3, 4, 5, 6)
    wide = [tuple(Target((*trunk, 10 + 2 * i + side, *range(7, 14)), 4) for side in (0, 1)) for i in range(4)]
    scoring = pick_scoring(model, wide, 256)
    assert "off by" in scoring.unsuited
    assert scoring.by_paths


def test_the_mode_of_training_has_no_noise_but_the_adapters() -> None:
    torch.manual_seed(0)
    model = hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=31,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            dropout=0.5,
            attention_dropout=0.5,
            layerdrop=0.5,
        )
    )
    adapted = add_adapter(model, LoraSettings(dropout=0.5))
    (pack,) = make_packs([(0, pair(8, 4, 6))], 256)
    learning_mode(adapted)
    first = packed_logprobs(adapted, pack)
    assert torch.equal(packed_logprobs(adapted, pack), first), "a fresh adapter changes nothing, whatever it drops"
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter += 0.5
    assert not torch.equal(packed_logprobs(adapted, pack), packed_logprobs(adapted, pack)), "its own dropout is on"
    learning_mode(adapted, dropout=False)
    assert torch.equal(packed_logprobs(adapted, pack), packed_logprobs(adapted, pack))


def test_checkpointed_layers_drop_nothing() -> None:
    torch.manual_seed(0)
    config = hf.GraniteConfig(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_dropout=0.5,
        pad_token_id=0,
    )
    model = hf.GraniteForCausalLM(config)
    (pack,) = make_packs([(0, pair(8, 4, 6))], 256)

    def gradient() -> torch.Tensor:
        model.zero_grad()
        learning_mode(model)
        packed_logprobs(model, pack).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain = gradient()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert torch.allclose(gradient(), plain, atol=1e-6)
    assert model.model.layers[0].training, "layers recompute in training mode alone"


def test_bfloat16_packs_what_it_can(random_units: Units) -> None:
    assert pick_scoring(tiny_model("llama").to(torch.bfloat16), random_units(1, 8), 256).unsuited == ""


def test_a_head_that_mixes_rows_is_not_cut_into_chunks(random_units: Units) -> None:
    """Its chunks are exact for no row: all logits of a sequence are needed."""
    model = tiny_model("llama")
    model.lm_head.register_forward_hook(lambda head, inputs, logits: logits - logits.cumsum(1) / 7)
    scoring = pick_scoring(model, random_units(1, 8), 256)
    assert scoring.score is full_logprobs
    assert "off by" in scoring.unsuited


def test_an_unfit_backward_pass_is_seen(random_units: Units) -> None:
    """Log-probabilities agree and gradients do not: a custom kernel whose backward is wrong."""

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, packed: bool) -> torch.Tensor:
            ctx.factor = 0.5 if packed else 1.0
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return gradients[0] * ctx.factor, None

    model = tiny_model("llama")
    layer = model.model.layers[0].mlp
    forward = layer.forward
    longest = max(len(target.ids) for unit in random_units(1, 8) for target in unit)
    layer.forward = lambda x: Halved.apply(forward(x), x.shape[1] > longest)
    assert "packed gradients are off by" in pick_scoring(model, random_units(1, 8), 256).unsuited


def test_memory_that_runs_out_is_no_trait_of_the_model(random_units: Units, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(probing, "packed_token_logprobs", out_of_memory)
    with pytest.raises(ModelError, match="out of memory in a pack; lower token_budget"):
        pick_scoring(tiny_model("llama"), random_units(1, 8), 256)


def test_weights_that_are_no_numbers_are_refused(random_units: Units) -> None:
    model = tiny_model("llama")
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(ModelError, match="log-probabilities are not numbers"):
        pick_scoring(model, random_units(1, 8), 256)
