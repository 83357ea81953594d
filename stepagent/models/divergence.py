"""How far a model has gone from another, where it goes itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stepagent.models.loading import load_model, pick_device, pick_dtype


@torch.no_grad()
def mean_kl(model: str | Path, start: str | Path, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float | None:
    """Return KL(model || start) in nats a token, exact over the vocabulary, as the mean over the tokens that `model`
    wrote: `texts` are its (context ids, reply ids). None without a token."""
    device = pick_device()
    models = [load_model(path, pick_dtype("auto", device), device) for path in (model, start)]
    total, tokens = 0.0, 0
    for context, reply in texts:
        if not context or not reply:
            continue
        ids = torch.tensor([[*context, *reply]], device=device)
        logprobs, start_logprobs = (
            network(input_ids=ids, use_cache=False).logits[0, len(context) - 1 : -1].float().log_softmax(-1)
            for network in models
        )
        total += (logprobs.exp() * (logprobs - start_logprobs)).sum().item()
        tokens += len(reply)
    return total / tokens if tokens else None
