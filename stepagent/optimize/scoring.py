"""Log-probabilities of a pack's targets: all in one forward pass, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from stepagent.optimize.attention import TRIE, mask_arguments, padding
from stepagent.optimize.packing import Pack, Unit, make_packs

Score = Callable[[Any, Pack], torch.Tensor]
"""(model, pack) -> summed log-probability of every target's scored tokens, [targets], float32 or better."""


def packed_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack in one forward pass; see Score."""
    device = next(model.parameters()).device
    pack = pack.padded(padding(model))
    sources, where = torch.unique(pack.source.to(device), return_inverse=True)
    logits = model(
        input_ids=pack.input_ids[None].to(device),
        position_ids=pack.position_ids[None].to(device),
        use_cache=False,
        logits_to_keep=sources,
        **mask_arguments(model, pack, device),
    ).logits[0]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logprobs = logits.log_softmax(-1)[where, pack.token.to(device)]
    sums = torch.zeros(len(pack.targets), dtype=logprobs.dtype, device=device)
    edge = pack.member_edge.to(device)
    return sums.index_add(0, pack.member_target.to(device), logprobs[edge])


def plain_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack's targets one by one, each in a forward pass of its own: what packing must equal, and
    the way for models that cannot be packed. See Score."""
    device = next(model.parameters()).device
    sums = []
    for target in pack.targets:
        ids = torch.tensor([target.ids], device=device)
        kept = len(target.ids) - target.start + 1
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits[0, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        following = ids[0, target.start :, None]
        sums.append(logits.log_softmax(-1).gather(1, following).sum())
    return torch.stack(sums)


class Scoring(NamedTuple):
    """How a model's units are scored: by `score`, in packs of `token_budget`; `unsuited` says why not
    packed, if so."""

    score: Score
    token_budget: int
    unsuited: str = ""


@torch.no_grad()
def pick_scoring(model: Any, units: Sequence[Unit], token_budget: int, mixed: bool = False) -> Scoring:
    """Packed scoring if it gives this model's plain log-probabilities on a few of its own units, by the
    fastest attention that does; else plain scoring, and the sentence that says why.

    Sliding windows that the units outgrow, recurrent layers, or positions that are not read from
    position_ids make a model unsuited; measured, no list of model types can go stale. `mixed` says that the
    model computes in less precision than its weights have.
    """
    layers = set(getattr(model.config, "layer_types", None) or ())
    slides = not layers or "sliding_attention" in layers
    window = getattr(model.config, "sliding_window", None) if slides else None
    longest = max(len(target.ids) for unit in units for target in unit)
    if window and longest > window:
        return plain_scoring(f"sequences of {longest} tokens outgrow the model's sliding window of {window}")
    few = [*sorted(units, key=lambda unit: unit[0].ids)[:3], max(units, key=lambda unit: len(unit[0].ids))]
    (pack,) = make_packs(enumerate(few), 1 << 40)
    device = next(model.parameters()).device
    precise = not mixed and all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())
    tolerance = 1e-3 if precise else 0.05
    usual = model.config._attn_implementation
    training = model.training
    model.eval()
    plain = plain_logprobs(model, pack)
    why = ""
    for attention in dict.fromkeys((_fastest(model, device) or usual, usual)):
        try:
            model.set_attn_implementation(attention)
            gap = (packed_logprobs(model, pack) - plain).abs().cpu() / pack.lengths()
            why = (
                ""
                if gap.max() < tolerance
                else f"packed log-probabilities are off by {gap.max():.2g} a token"
            )
        except (TypeError, ValueError, RuntimeError) as error:
            why = f"the model takes no packed input ({str(error).partition(chr(10))[0][:80]})"
        if not why:
            break
    model.train(training)
    return plain_scoring(why) if why else Scoring(packed_logprobs, token_budget)


def plain_scoring(unsuited: str) -> Scoring:
    """One by one, and why."""
    return Scoring(plain_logprobs, 1, unsuited)  # a unit a pack: one pair's activations at a time


def _fastest(model: Any, device: torch.device) -> str | None:
    if getattr(model.config, "attention_dropout", 0.0):
        return None
    return {"cpu": TRIE, "cuda": "flex_attention"}.get(device.type)
