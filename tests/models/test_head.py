"""The head in chunks is the head at once: values and gradients, whatever a family does with its logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_families import tiny_model

from stepagent.config.settings import LoraSettings
from stepagent.models import head
from stepagent.models.head import token_logprobs
from stepagent.training.adapters import add_adapter
from stepagent.training.mode import learning_mode

IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]])
SOURCE = torch.tensor([2, 3, 3, 4, 5, 6, 7, 8, 9])  # position 3 is scored twice, as where two siblings begin
TOKEN = torch.tensor([6, 7, 20, 8, 9, 10, 11, 12, 13])


def measure(model: Any, logprobs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the log-probabilities and the gradients of a sum in which each has a weight of its own."""
    model.zero_grad()
    torch.autograd.backward((logprobs * torch.linspace(-1, 2, len(logprobs), dtype=logprobs.dtype)).sum())
    return logprobs.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trained", ["all", "adapter"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "granite", "gemma3", "llama4", "opt", "gpt_neox"])
def test_chunks_equal_whole_logits(monkeypatch: pytest.MonkeyPatch, family: str, trained: str) -> None:
    monkeypatch.setattr(head, "rows_a_chunk", lambda vocabulary: 4)  # nine rows: two chunks and a short one
    torch.manual_seed(0)
    model = tiny_model(family).double()
    if trained == "adapter":
        model = add_adapter(model, LoraSettings(rank=2))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter += 0.1 * torch.randn_like(parameter)
    learning_mode(model)
    whole = model(input_ids=IDS, use_cache=False).logits[0].log_softmax(-1)[SOURCE, TOKEN]
    expected, expected_gradients = measure(model, whole)
    logprobs, gradients = measure(model, token_logprobs(model, SOURCE, TOKEN, input_ids=IDS))
    assert len(gradients) == len(expected_gradients) > 0
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-9)
    for gradient, plain in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(token_logprobs(model, SOURCE, TOKEN, input_ids=IDS), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(model(input_ids=IDS).logits.shape, (1, 11, model.config.get_text_config().vocab_size))


def test_a_chunk_has_a_bounded_size_whatever_the_vocabulary() -> None:
    assert head.rows_a_chunk(49_152) == 341  # 2^24 logits
    assert head.rows_a_chunk(262_144) == 64


def test_a_model_that_is_all_head_is_refused() -> None:
    model = tiny_model("llama")
    model.get_decoder = lambda: model
    model.children = lambda: iter(())
    with pytest.raises(TypeError, match="no backbone apart from its head"):
        token_logprobs(model, SOURCE, TOKEN, input_ids=IDS)
