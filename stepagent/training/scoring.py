"""Score a pack's targets by their log-probabilities: all in one forward pass, or one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stepagent.models.head import token_logprobs
from stepagent.training.attention import mask_arguments, padding
from stepagent.training.packing import Pack, Target

Score = Callable[[Any, Pack], torch.Tensor]
"""(model, pack) -> summed log-probability of every target's scored tokens, [targets], float32 or better."""


def packed_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack in one forward pass; arguments and result as in Score."""
    return _sums(pack, packed_token_logprobs(model, pack))


def packed_token_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Return the log-probabilities (nats) of all scored tokens of a pack, target by target, from one forward pass."""
    device = _device(model)
    pack = pack.padded(padding(model))
    logprobs = token_logprobs(
        model,
        pack.source.to(device),
        pack.token.to(device),
        input_ids=pack.input_ids[None].to(device),
        position_ids=pack.position_ids[None].to(device),
        **mask_arguments(model, pack, device),
    )
    return logprobs[pack.member_edge.to(device)]


def plain_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack's targets one by one, each in a forward pass of its own. Packed scores must equal these,
    and models that cannot be packed are scored so. Arguments and result as in Score."""
    return torch.stack([plain_token_logprobs(model, target).sum() for target in pack.targets])


def full_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score as `plain_logprobs` does, a model whose head cannot be run apart from the rest."""
    return torch.stack([plain_token_logprobs(model, target, full=True).sum() for target in pack.targets])


def plain_token_logprobs(model: Any, target: Target, *, full: bool = False) -> torch.Tensor:
    """Return the log-probabilities (nats) of a target's scored tokens from a forward pass of its own. `full`: by the
    logits of all tokens at once, which every model computes right."""
    device = _device(model)
    ids = torch.tensor([target.ids], device=device)
    sources, tokens = torch.arange(target.start - 1, len(target.ids) - 1, device=device), ids[0, target.start :]
    if not full:
        return token_logprobs(model, sources, tokens, input_ids=ids)
    logits = model(input_ids=ids, use_cache=False).logits[0, sources]
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    scored: torch.Tensor = logprobs.gather(1, tokens[:, None])[:, 0]
    return scored


def _sums(pack: Pack, logprobs: torch.Tensor) -> torch.Tensor:
    """Return the sum for every target, [targets], of log-probabilities that stand target by target."""
    sums = torch.zeros(len(pack.targets), dtype=logprobs.dtype, device=logprobs.device)
    return sums.index_add(0, pack.member_target.to(logprobs.device), logprobs)


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
