"""The noise of a model's own rounding, by which other ways of computing the same are measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# An exact way may differ by a few times the noise: its passes round in every layer, the noise only once.
_NOISES = {torch.float32: 8, torch.bfloat16: 3}
_LEAST = {torch.float32: 2e-5, torch.bfloat16: 2e-3}  # nats a token, where next to no noise shows
_MOST = {torch.float32: 1e-3, torch.bfloat16: 0.5}  # nats a token: more would be another model, whatever the noise


def distance(logprobs: torch.Tensor, references: torch.Tensor, precision: torch.dtype) -> float:
    """Return how far (nats a token) log-probabilities are from references: the largest difference, and in bfloat16 the
    root of the mean square. There a rare token of a real model moves by half a nat at one rounding, so that the largest
    tells nothing; tokens that see a wrong context move all at once."""
    difference = (logprobs - references).double()
    size = difference.abs().max() if precision == torch.float32 else difference.square().mean().sqrt()
    return size.item()


def tolerance(noise: float, precision: torch.dtype) -> float:
    """Return the `distance` by which an exact way may be off, where one rounding more is worth `noise`."""
    return min(max(_LEAST[precision], _NOISES[precision] * noise), _MOST[precision])


def precision_of(model: Any, *, mixed: bool = False) -> torch.dtype:
    """Return float32 or bfloat16, in which the model computes. `mixed` means in bfloat16 whatever its weights are."""
    half = mixed or any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters())
    return torch.bfloat16 if half else torch.float32


@contextmanager
def rounded_embeddings(model: Any, precision: torch.dtype) -> Iterator[None]:
    """Move every input embedding by one rounding step up, down or not at all, at random but always alike."""
    eps = torch.finfo(precision).eps

    def hook(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(-1, 2, output.shape, generator=generator).to(output)
        return output * (1 + eps * signs)

    handle = model.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
