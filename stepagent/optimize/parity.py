"""Do two models give the same outputs? The one place that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stepagent.errors import ParityError


@torch.no_grad()
def probe_outputs(model: Any, probes: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Per probe, the log-probabilities of every next token along it: [len(probe), vocabulary], float32,
    on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    outputs = []
    for probe in probes:
        logits = model(input_ids=torch.tensor([list(probe)], device=device), use_cache=False).logits[0]
        outputs.append(torch.as_tensor(logits).float().log_softmax(-1).cpu())
    return outputs


def check_outputs(
    outputs: Sequence[torch.Tensor], other: Any, probes: Sequence[Sequence[int]], tolerance: float = 1e-3
) -> float:
    """Compare one model's `probe_outputs` with another model: the log-probability of every probe token,
    and the greedy choice wherever it is not a tie within the tolerance.

    Returns the largest difference in log-probability (nats). Raises ParityError beyond the tolerance.
    """
    largest = 0.0
    for probe, a, b in zip(probes, outputs, probe_outputs(other, probes), strict=True):
        following = torch.tensor(list(probe[1:]))[:, None]
        difference = (a[:-1].gather(1, following) - b[:-1].gather(1, following)).abs().max()
        largest = max(largest, difference.item())
        top = a.topk(2).values
        sure = top[:, 0] - top[:, 1] > 2 * tolerance
        if not torch.equal(a.argmax(-1)[sure], b.argmax(-1)[sure]):
            raise ParityError("the models differ in a greedy choice that is no tie")
    if not largest <= tolerance:
        raise ParityError(
            f"the models' log-probabilities differ by up to {largest:.2g} (allowed: {tolerance:.2g})"
        )
    return largest
