"""Score a pack's targets by their log-probabilities: all in one forward pass, or one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stepagent.optimize.attention import mask_arguments, padding
from stepagent.optimize.packing import Pack, Target

Score = Callable[[Any, Pack], torch.Tensor]
"""(model, pack) -> summed log-probability of every target's scored tokens, [targets], float32 or better."""


def packed_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack in one forward pass; arguments and result as in Score."""
    return _sums(pack, packed_token_logprobs(model, pack))


def packed_token_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Return the log-probabilities (nats) of all scored tokens of a pack, target by target, from one forward pass."""
    device = _device(model)
    pack = pack.padded(padding(model))
    sources, row = torch.unique(pack.source.to(device), return_inverse=True)
    logits = model(
        input_ids=pack.input_ids[None].to(device),
        position_ids=pack.position_ids[None].to(device),
        use_cache=False,
        logits_to_keep=sources,
        **mask_arguments(model, pack, device),
    ).logits[0]
    if len(logits) != len(sources):  # some models take `logits_to_keep` and keep all
        logits = logits[sources]
    return _log_softmax(logits)[row, pack.token.to(device)][pack.member_edge.to(device)]


def plain_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack's targets one by one, each in a forward pass of its own. Packed scores must equal these,
    and models that cannot be packed are scored so. Arguments and result as in Score."""
    return torch.stack([plain_token_logprobs(model, target).sum() for target in pack.targets])


def full_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score as `plain_logprobs` does, by a model that cannot leave out the logits that no token needs."""
    return torch.stack([plain_token_logprobs(model, target, full=True).sum() for target in pack.targets])


def plain_token_logprobs(model: Any, target: Target, *, full: bool = False) -> torch.Tensor:
    """Return the log-probabilities (nats) of a target's scored tokens from a forward pass of its own. `full`: by the
    logits of all tokens, which every model computes right."""
    device = _device(model)
    ids = torch.tensor([target.ids], device=device)
    count = len(target.ids) - target.start + 1
    options = {} if full else {"logits_to_keep": count}
    logits = model(input_ids=ids, use_cache=False, **options).logits[0, -count:-1]
    return _log_softmax(logits).gather(1, ids[0, target.start :, None])[:, 0]


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _sums(pack: Pack, logprobs: torch.Tensor) -> torch.Tensor:
    """Return the sum for every target, [targets], of log-probabilities that stand target by target."""
    sums = torch.zeros(len(pack.targets), dtype=logprobs.dtype, device=logprobs.device)
    return sums.index_add(0, pack.member_target.to(logprobs.device), logprobs)


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
