"""Comparison of two models by their outputs: the only place that decides whether they are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from stepagent.errors import ParityError

_LOGITS = 1 << 26  # logits that exist at a time: 256 MiB in float32


class Outputs(NamedTuple):
    """Outputs of a model along one probe, on the CPU: `logprobs` of every next token ([length - 1], float32,
    nats), the `greedy` choices ([length]) and the `lead` of each over the second choice ([length], nats)."""

    logprobs: torch.Tensor
    greedy: torch.Tensor
    lead: torch.Tensor


@torch.no_grad()
def probe_outputs(model: Any, probes: Sequence[Sequence[int]]) -> list[Outputs]:
    """Return the outputs of a model along every probe (token ids). Probes of about one length go through it together:
    weights that are read from files are read once for all of them."""
    model.eval()
    device = next(model.parameters()).device
    if device.type == "meta":  # its weights come from files when they are needed
        device = torch.device("cpu")
    rows = max(1, _LOGITS // model.config.get_text_config(decoder=True).vocab_size)
    outputs: dict[int, Outputs] = {}
    for batch in _batches(probes, rows):
        longest = len(probes[batch[-1]])
        # Nothing that follows a causal model's token changes its output, so that any token fills up a row.
        filled = [[*probes[i], *[probes[i][-1]] * (longest - len(probes[i]))] for i in batch]
        logits = model(input_ids=torch.tensor(filled, device=device), use_cache=False).logits
        for i, row in zip(batch, logits, strict=True):
            outputs[i] = _outputs(row[: len(probes[i])], torch.tensor(list(probes[i]), device=row.device))
    return [outputs[i] for i in range(len(probes))]


def _batches(probes: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Yield the indices of probes, the shortest first, in batches that hold at most `tokens` tokens once
    each row is filled up to the longest."""
    batch: list[int] = []
    for i in sorted(range(len(probes)), key=lambda i: len(probes[i])):
        if batch and len(probes[i]) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _outputs(logits: torch.Tensor, ids: torch.Tensor) -> Outputs:
    logprobs = logits.float().log_softmax(-1)
    top = logprobs.topk(2)
    following = logprobs[:-1].gather(1, ids[1:, None])[:, 0]
    return Outputs(following.cpu(), top.indices[:, 0].cpu(), (top.values[:, 0] - top.values[:, 1]).cpu())


def check_outputs(a: Sequence[Outputs], b: Sequence[Outputs], *, tolerance: float = 1e-3) -> float:
    """Compare the `probe_outputs` of two models: the log-probability of every probe token, and the greedy choice
    wherever it leads by more than twice the tolerance in `a`.

    Returns the largest difference in log-probability (nats). Raises ParityError beyond the tolerance, and
    for outputs that are not numbers.
    """
    largest = 0.0
    for first, second in zip(a, b, strict=True):
        if not (first.logprobs.isfinite().all() and second.logprobs.isfinite().all()):
            raise ParityError("the models' outputs are not numbers")
        largest = max(largest, (first.logprobs - second.logprobs).abs().max().item())
        sure = first.lead > 2 * tolerance
        if not torch.equal(first.greedy[sure], second.greedy[sure]):
            raise ParityError("the models differ in a greedy choice that is no tie")
    if largest > tolerance:
        raise ParityError(f"the models' log-probabilities differ by up to {largest:.2g} (allowed: {tolerance:.2g})")
    return largest
