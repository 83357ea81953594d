"""Log-probabilities of tokens from a model's last hidden states, a chunk of rows at a time.

The logits of a whole pack are the largest thing that training would hold: 4,096 tokens of a vocabulary of 49,152 take
805 MB in float32, and their softmax and its gradient as much again. Here only one chunk of them exists at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

_LOGITS = 1 << 24  # a chunk: 64 MiB in float32; glibc maps what exceeds 32 MiB apart, so that no gaps are left
_LEAST_ROWS = 64  # with fewer rows, reading the head's weights would take longer than the product

_Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(hidden states [rows, hidden], tokens [rows]) -> log-probabilities [rows] in nats."""


def rows_a_chunk(vocabulary: int) -> int:
    """Return the number of rows of logits that exist at a time."""
    return max(_LEAST_ROWS, _LOGITS // vocabulary)


def token_logprobs(model: Any, source: torch.Tensor, token: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Return the log-probability (nats, float32 or better) of each `token` [K] after the position `source` [K] of the
    one sequence in `inputs`, the arguments of the model's forward pass; [K].

    The logits come from the model's own code, which runs once for the hidden states and then for each chunk of them, so
    that the scales, soft caps and biases of any family are in them. Raises what the model raises, and TypeError for one
    that is not a backbone with a head.
    """
    core = core_of(model)
    backbone = _backbone(core)
    run_core, run_backbone = core.forward, backbone.forward
    states: list[Any] = []

    def keep_states(*args: Any, **kwargs: Any) -> Any:
        states.append(run_backbone(*args, **kwargs))
        return _with_states(states[0], states[0][0][:, -1:])

    def score(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Run the code after the backbone on some rows as if they were a sequence."""
        with _replaced(backbone, lambda *args, **kwargs: _with_states(states[0], rows[None])):
            logits = run_core(input_ids=tokens[None], use_cache=False).logits[0]
        return -cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), tokens, reduction="none")

    def forward(*args: Any, **kwargs: Any) -> Any:
        with _replaced(backbone, keep_states):
            output = run_core(*args, **kwargs)
        if not states:
            raise TypeError("the model does not call its decoder")
        hidden = states[0][0][0].index_select(0, source)
        output["logits"] = _in_chunks(score, hidden, token, rows_a_chunk(output.logits.shape[-1]))
        return output

    # Inside the outermost forward pass, since sharded models gather their weights and exchange gradients around it.
    with _replaced(core, forward):
        logprobs: torch.Tensor = model(use_cache=False, **inputs).logits
    return logprobs


def core_of(model: Any) -> Any:
    """Return the model of Transformers inside DistributedDataParallel and an adapter."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _backbone(core: Any) -> Any:
    """Return the part of a causal language model that computes its last hidden states. Raises TypeError if there is
    none apart from its head."""
    decoder = core.get_decoder()
    while decoder is core or decoder.get_output_embeddings() is not None:
        core = decoder
        decoder = next((part for part in core.children() if isinstance(part, PreTrainedModel)), None)
        if decoder is None:
            raise TypeError("the model has no backbone apart from its head")
    return decoder


def _in_chunks(score: _Score, hidden: torch.Tensor, token: torch.Tensor, size: int) -> torch.Tensor:
    """Return the log-probabilities of all rows. The gradient keeps no logits: a row's own gradient is computed beside
    it, or, where the weights of the head are trained, the chunk is computed again in the backward pass."""
    chunks = zip(torch.split(hidden, size), torch.split(token, size), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([score(*chunk) for chunk in chunks])
    if score(hidden[:1].detach(), token[:1]).requires_grad:
        return torch.cat([checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks])
    logprobs: torch.Tensor = _FrozenHead.apply(hidden, token, score, size)  # type: ignore[no-untyped-call]
    return logprobs


class _FrozenHead(torch.autograd.Function):
    """Scores rows with weights that are not trained. A row's log-probability depends on that row alone, so that its
    gradient is known up to a factor, which the backward pass brings."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, token: torch.Tensor, score: _Score, size: int) -> torch.Tensor:
        gradients = torch.empty_like(hidden)  # made first: between the chunks, it would split the memory they reuse
        logprobs = []
        for start in range(0, len(token), size):
            rows = hidden[start : start + size].detach().requires_grad_()
            with torch.enable_grad():
                scores = score(rows, token[start : start + size])
                (gradients[start : start + size],) = torch.autograd.grad(scores.sum(), rows)
            logprobs.append(scores.detach())
        ctx.save_for_backward(gradients)
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        (row_gradients,) = ctx.saved_tensors
        return (gradients[0][:, None] * row_gradients).to(row_gradients), None, None, None


def _with_states(output: Any, states: torch.Tensor) -> Any:
    """Return a backbone's output with other last hidden states."""
    if isinstance(output, tuple):
        return (states, *output[1:])
    output = copy(output)
    output["last_hidden_state"] = states
    return output


@contextmanager
def _replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module run `forward` for a while, inside whatever is hooked to its calls."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
