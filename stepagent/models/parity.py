"""Comparison of two models by their outputs: the only place that decides whether they are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from stepagent.errors import ParityError


class Outputs(NamedTuple):
    """Outputs of a model along one probe, on the CPU: `logprobs` of every next token ([length - 1], float32,
    nats), the `greedy` choices ([length]) and the `lead` of each over the second choice ([length], nats)."""

    logprobs: torch.Tensor
    greedy: torch.Tensor
    lead: torch.Tensor


@torch.no_grad()
def probe_outputs(model: Any, probes: Sequence[Sequence[int]]) -> list[Outputs]:
    """Return the outputs of a model along every probe (token ids)."""
    model.eval()
    device = next(model.parameters()).device
    outputs = []
    for probe in probes:
        ids = torch.tensor([list(probe)], device=device)
        logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        top = logprobs.topk(2)
        following = logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0]
        lead = top.values[:, 0] - top.values[:, 1]
        outputs.append(Outputs(following.cpu(), top.indices[:, 0].cpu(), lead.cpu()))
    return outputs


def check_outputs(
    outputs: Sequence[Outputs], model: Any, probes: Sequence[Sequence[int]], *, tolerance: float = 1e-3
) -> float:
    """Compare one model's `probe_outputs` with `model`: the log-probability of every probe token, and the
    greedy choice wherever it leads by more than twice the tolerance.

    Returns the largest difference in log-probability (nats). Raises ParityError beyond the tolerance, and
    for outputs that are not numbers.
    """
    largest = 0.0
    for a, b in zip(outputs, probe_outputs(model, probes), strict=True):
        if not (a.logprobs.isfinite().all() and b.logprobs.isfinite().all()):
            raise ParityError("the models' outputs are not numbers")
        largest = max(largest, (a.logprobs - b.logprobs).abs().max().item())
        sure = a.lead > 2 * tolerance
        if not torch.equal(a.greedy[sure], b.greedy[sure]):
            raise ParityError("the models differ in a greedy choice that is no tie")
    if largest > tolerance:
        raise ParityError(f"the models' log-probabilities differ by up to {largest:.2g} (allowed: {tolerance:.2g})")
    return largest
