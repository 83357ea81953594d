"""Drawing tokens for many rows at once: how a row is drawn and when it ends, however the model is run.

Each row draws with its own seeded numbers, so its sample does not depend on the rows that run beside it (beyond
floating-point rounding).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stepagent.types import FinishReason, Sampling

_LIKELIEST = 256  # tokens of a row that are sorted first; nearly every draw is one of them


@dataclass(eq=False, slots=True)
class Row:
    """One sample that is being drawn. `uniforms` [max_tokens] holds one number in [0, 1) per token."""

    sampling: Sampling
    max_tokens: int
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    first: list[tuple[int, float]] | None = None


Group = tuple[Sequence[int], Sequence[Row]]
"""The ids of a prompt, and the rows that are drawn after it."""


class Decoder(ABC):
    """Rows of one model that still draw, `rows`, and the logits [rows, vocabulary] of their next tokens. Subclasses
    run the model."""

    def __init__(self, model: Any, tokenizer: Any, end_ids: Sequence[int]) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._end_ids = frozenset(end_ids)
        self._closers: dict[frozenset[str], frozenset[int] | None] = {}
        self.rows: list[Row] = []
        self._logits = torch.zeros(0, 0)

    @abstractmethod
    def admit(self, groups: Sequence[Group]) -> None:
        """Add groups to the rows that draw, after the forward passes over their prompts."""

    @abstractmethod
    def _keep(self, index: list[int]) -> list[int]:
        """Keep the rows at `index` alone; return the places they had in the order in which they now stand."""

    @abstractmethod
    def _extend(self, tokens: torch.Tensor) -> None:
        """Append one token to every row ([rows]) and compute the logits of the next."""

    def clear(self) -> None:
        """Forget all rows."""
        self.rows = []

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Draw one token for every row, and return the rows that are finished by it."""
        tokens, logprobs = draw(
            self._logits,
            temperature=[row.sampling.temperature for row in self.rows],
            top_p=[row.sampling.top_p for row in self.rows],
            uniforms=[row.uniforms[len(row.token_ids)] for row in self.rows],
        )
        for place, row in enumerate(self.rows):
            if row.sampling.top_logprobs and not row.token_ids:
                best = self._logits[place].log_softmax(-1).topk(row.sampling.top_logprobs)
                row.first = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        finished = []
        for row, token, logprob in zip(self.rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.finish_reason = self._finish_reason(row, token)
            if row.finish_reason:
                finished.append(row)
        if finished:
            unfinished = [i for i, row in enumerate(self.rows) if not row.finish_reason]
            tokens = tokens[self._keep(unfinished)]
        if self.rows:
            self._extend(tokens)
        return finished

    def _finish_reason(self, row: Row, token: int) -> FinishReason | None:
        if token in self._end_ids:
            return "end"
        stop = row.sampling.stop
        if stop and self._may_close(stop, token):
            text = self._tokenizer.decode(row.token_ids)
            if any(s in text for s in stop):
                return "stop"
        return "length" if len(row.token_ids) >= row.max_tokens else None

    def _may_close(self, stop: tuple[str, ...], token: int) -> bool:
        """Return whether a stop string may end in this token. Decoding a row at every token instead would
        dominate the CPU."""
        endings = frozenset(text[-1] for text in stop)
        if endings not in self._closers:
            ascii_only = all(char.isascii() for char in endings)
            size = len(self._tokenizer)
            pieces = self._tokenizer.batch_decode([[i] for i in range(size)]) if ascii_only else []
            self._closers[endings] = (
                frozenset(i for i, piece in enumerate(pieces) if endings & set(piece))
                if ascii_only
                else None  # such a character may be spread over several byte tokens: every token may end it
            )
        closers = self._closers[endings]
        return closers is None or token in closers


def draw(
    logits: torch.Tensor,
    temperature: Sequence[float],
    top_p: Sequence[float],
    *,
    uniforms: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token per row from logits [rows, vocabulary] by inverting the nucleus' distribution function.

    Temperature 0 takes the most likely token. Returns token ids [rows] and their log-probabilities (nats)
    under the model itself (temperature 1, no nucleus) [rows].
    """
    tokens = logits.argmax(-1)
    random_rows = [i for i, value in enumerate(temperature) if value > 0]
    if random_rows:
        index = torch.tensor(random_rows, device=logits.device)
        temperatures = torch.tensor([temperature[i] for i in random_rows], device=logits.device)
        nucleus = torch.tensor([top_p[i] for i in random_rows], device=logits.device)
        points = torch.tensor([uniforms[i] for i in random_rows], device=logits.device)
        tokens[index] = _draw_from_nuclei((logits[index] / temperatures[:, None]).softmax(-1), nucleus, points)
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    return tokens, logprobs


def _draw_from_nuclei(chances: torch.Tensor, nucleus: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return a token per row: that at `points` [rows] of the distribution function of the likeliest tokens of `chances`
    [rows, vocabulary] that together reach the mass `nucleus` [rows]."""
    best, order = chances.topk(min(_LIKELIEST, chances.shape[1]))
    mass = best.sum(-1)
    tokens = _invert(best, order, nucleus, points)
    # Sorting a whole vocabulary takes longer than a small model's forward pass: only where the draw may lie beyond.
    beyond = (mass < nucleus) & ~((nucleus >= 1) & (points < mass))
    if best.shape[1] < chances.shape[1] and bool(beyond.any()):
        ordered, order = chances[beyond].sort(-1, descending=True)
        tokens[beyond] = _invert(ordered, order, nucleus[beyond], points[beyond])
    return tokens


def _invert(chances: torch.Tensor, order: torch.Tensor, nucleus: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Do the same for the likeliest `chances` in falling order [rows, tokens], of the tokens `order`."""
    # Compared with the mass before a token, so that the likeliest one is inside however small top_p is.
    outside = chances.cumsum(-1) - chances >= nucleus[:, None]
    cumulative = chances.masked_fill(outside, 0).cumsum(-1)
    # Scaling the point instead of the chances renormalises the nucleus with one number a row.
    whole = torch.where(nucleus >= 1, torch.ones_like(points), cumulative[:, -1])
    rank = (cumulative <= (points * whole)[:, None]).sum(-1, keepdim=True)
    # Rounding can carry a point near 1 past the nucleus.
    last_rank = (~outside).sum(-1, keepdim=True) - 1
    tokens: torch.Tensor = order.gather(1, rank.minimum(last_rank))[:, 0]
    return tokens
