"""Score a pack's targets by their log-probabilities: all in one forward pass, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from stepagent.optimize.attention import TRIE, mask_arguments, padding
from stepagent.optimize.packing import Pack, Unit, make_packs

Score = Callable[[Any, Pack], torch.Tensor]
"""(model, pack) -> summed log-probability of every target's scored tokens, [targets], float32 or better."""


def packed_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack in one forward pass; arguments and result as in Score."""
    device = next(model.parameters()).device
    pack = pack.padded(padding(model))
    sources, row = torch.unique(pack.source.to(device), return_inverse=True)
    logits = model(
        input_ids=pack.input_ids[None].to(device),
        position_ids=pack.position_ids[None].to(device),
        use_cache=False,
        logits_to_keep=sources,
        **mask_arguments(model, pack, device),
    ).logits[0]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logprobs = logits.log_softmax(-1)[row, pack.token.to(device)]
    sums = torch.zeros(len(pack.targets), dtype=logprobs.dtype, device=device)
    edge = pack.member_edge.to(device)
    return sums.index_add(0, pack.member_target.to(device), logprobs[edge])


def plain_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack's targets one by one, each in a forward pass of its own. Packed scores must equal these,
    and models that cannot be packed are scored so. Arguments and result as in Score."""
    device = next(model.parameters()).device
    sums = []
    for target in pack.targets:
        ids = torch.tensor([target.ids], device=device)
        count = len(target.ids) - target.start + 1
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=count).logits[0, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        next_ids = ids[0, target.start :, None]
        sums.append(logits.log_softmax(-1).gather(1, next_ids).sum())
    return torch.stack(sums)


class Scoring(NamedTuple):
    """The way in which a model's units are scored: by `score`, in packs of `token_budget` tokens. `unsuited`
    is the reason why they are scored without packing, empty if they are packed."""

    score: Score
    token_budget: int
    unsuited: str = ""


@torch.no_grad()
def pick_scoring(model: Any, units: Sequence[Unit], token_budget: int, *, mixed: bool = False) -> Scoring:
    """Return packed scoring, by the fastest attention whose log-probabilities equal the plain ones on a few
    of the model's own units (1e-3 nats per token in float32, 0.05 in less); else plain scoring with the
    reason. The attention is set on the model.

    A model is unsuited for packing if its sliding window is shorter than a unit, if its layers are recurrent,
    or if it does not read positions from position_ids. `mixed` means that the model computes in less
    precision than its weights have.
    """
    layers = set(getattr(model.config, "layer_types", None) or ())
    has_window = not layers or "sliding_attention" in layers
    window = getattr(model.config, "sliding_window", None) if has_window else None
    longest = max(len(target.ids) for unit in units for target in unit)
    # The units measured below may be shorter than the window, so that this limit would not show.
    if window and longest > window:
        return plain_scoring(f"sequences of {longest} tokens outgrow the model's sliding window of {window}")
    # Neighbours share a prefix, which is the case that packing changes; the longest unit stands apart from
    # them. The outcome is measured, since a list of the model types that can be packed would go stale.
    sample = [*sorted(units, key=lambda unit: unit[0].ids)[:3], max(units, key=lambda unit: len(unit[0].ids))]
    packs = list(make_packs(enumerate(sample), token_budget))
    device = next(model.parameters()).device
    full_precision = not mixed and all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())
    tolerance = 1e-3 if full_precision else 0.05
    default = model.config._attn_implementation
    was_training = model.training
    model.eval()  # dropout would make the two ways differ
    plain = [plain_logprobs(model, pack) for pack in packs]
    reason = ""
    # The model's own attention comes last: if none gives equal scores, plain scoring goes on with it.
    for attention in dict.fromkeys((_fastest(model, device) or default, default)):
        try:
            model.set_attn_implementation(attention)
            gap = torch.cat(
                [
                    (packed_logprobs(model, pack) - logprobs).abs().cpu() / pack.lengths()
                    for pack, logprobs in zip(packs, plain, strict=True)
                ]
            )
            reason = "" if gap.max() < tolerance else f"packed log-probabilities are off by {gap.max():.2g} a token"
        except (TypeError, ValueError, RuntimeError) as error:
            reason = f"the model takes no packed input ({str(error).partition(chr(10))[0][:80]})"
        if not reason:
            break
    model.train(was_training)
    return plain_scoring(reason) if reason else Scoring(packed_logprobs, token_budget)


def plain_scoring(unsuited: str) -> Scoring:
    """Return the scoring one by one, for the reason `unsuited`."""
    return Scoring(plain_logprobs, 1, unsuited)  # a unit a pack: one pair's activations at a time


def _fastest(model: Any, device: torch.device) -> str | None:
    """Return the fastest attention for packs on `device`; None if the model needs its own, for dropout."""
    if getattr(model.config, "attention_dropout", 0.0):
        return None
    return {"cpu": TRIE, "cuda": "flex_attention"}.get(device.type)
