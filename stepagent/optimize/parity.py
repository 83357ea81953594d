"""Do two models give the same outputs? The one place that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stepagent.errors import ParityError


@torch.no_grad()
def next_token_logprobs(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of every next token along `ids`, [len(ids), vocabulary], float32 on the CPU."""
    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).logits[0]
    return torch.as_tensor(logits).float().log_softmax(-1).cpu()


def check_equal(one: Any, other: Any, probes: Sequence[Sequence[int]], tolerance: float = 1e-3) -> float:
    """Compare two models on probe token sequences: the log-probability of every probe token, and the
    greedy choice wherever it is not a tie within the tolerance.

    Returns the largest difference in log-probability (nats). Raises ParityError beyond the tolerance.
    """
    one.eval()
    other.eval()
    largest = 0.0
    for probe in probes:
        a, b = next_token_logprobs(one, probe), next_token_logprobs(other, probe)
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
