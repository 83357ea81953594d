"""Continuous batching for a Transformers model: rows join and leave a running batch at any token.

Rows are left-padded to one length, so that one forward pass extends all of them; a request's n samples
share one prefill. Each row draws from its own seeded numbers, so what it samples does not depend on
which rows happen to run beside it (beyond floating-point rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from stepagent.models.loading import attention_mask
from stepagent.types import FinishReason, Sampling


@dataclass(eq=False, slots=True)
class Row:
    """One sample being drawn. `uniforms` holds one number in [0, 1) per token it may draw."""

    sampling: Sampling
    max_tokens: int
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    first: list[tuple[int, float]] | None = None


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room to grow: appending a token writes one column instead of copying all."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True
        self.hold(key_states[..., :0, :], value_states[..., :0, :])

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace the cached states; shape [rows, heads, length, head_dim]."""
        self.keys, self.values = keys, values
        self._room = (keys, values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            shape = (*key_states.shape[:-2], end + 64, key_states.shape[-1])
            room = [key_states.new_zeros(shape) for _ in range(2)]
            room[0][..., :start, :], room[1][..., :start, :] = self.keys, self.values
            self._room = (room[0], room[1])
        self._room[0][..., start:end, :] = key_states
        self._room[1][..., start:end, :] = value_states
        self.keys, self.values = (half[..., :end, :] for half in self._room)
        return self.keys, self.values


class Decoder:
    """The running batch of one model."""

    def __init__(self, model: Any, tokenizer: Any, end_ids: Sequence[int]) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._end_ids = frozenset(end_ids)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._closers: dict[frozenset[str], frozenset[int] | None] = {}
        self.rows: list[Row] = []
        self._cache = Cache(layer_class_to_replicate=_RoomyLayer)
        self._seen = torch.zeros(0, 0, dtype=torch.bool)  # [rows, length]: real, not padding
        self._logits = torch.zeros(0, 0)  # [rows, vocabulary]: of the next token

    @torch.inference_mode()
    def admit(self, groups: Sequence[tuple[Sequence[int], Sequence[Row]]]) -> None:
        """Prefill each group's prompt once and add its rows to the batch."""
        device = self._model.device
        longest = max(len(prompt) for prompt, _ in groups)
        ids = torch.full((len(groups), longest), self._pad, device=device)
        seen = torch.zeros(len(groups), longest, dtype=torch.bool, device=device)
        for row, (prompt, _) in enumerate(groups):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
            seen[row, longest - len(prompt) :] = True
        causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        itself = torch.eye(longest, dtype=torch.bool, device=device)
        mask = (causal & seen[:, None, :]) | itself  # padding sees itself: no row of it is empty
        cache = Cache(layer_class_to_replicate=_RoomyLayer)
        output = self._model(
            input_ids=ids,
            attention_mask=attention_mask(self._model, mask[:, None]),
            position_ids=(seen.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        repeat = torch.tensor([len(rows) for _, rows in groups], device=device)
        index = torch.arange(len(groups), device=device).repeat_interleave(repeat)
        self._join(cache, index, seen[index], output.logits[:, -1].float()[index])
        self.rows += [row for _, rows in groups for row in rows]

    def _join(self, cache: Cache, index: torch.Tensor, seen: torch.Tensor, logits: torch.Tensor) -> None:
        if not self.rows:
            for layer in cache.layers:
                layer.hold(layer.keys[index], layer.values[index])
            self._cache, self._seen, self._logits = cache, seen, logits
            return
        longest = max(self._seen.shape[1], seen.shape[1])
        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            old.hold(
                torch.cat([_pad_left(old.keys, longest), _pad_left(new.keys[index], longest)]),
                torch.cat([_pad_left(old.values, longest), _pad_left(new.values[index], longest)]),
            )
        both = [_pad_left(part[:, None, :, None], longest)[:, 0, :, 0] for part in (self._seen, seen)]
        self._seen = torch.cat(both)
        self._logits = torch.cat([self._logits, logits])

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Draw one token for every row; returns the rows that this finished."""
        drawn, logprobs = draw(
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
        for row, token, logprob in zip(self.rows, drawn.tolist(), logprobs.tolist(), strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.finish_reason = self._finish_reason(row, token)
            if row.finish_reason:
                finished.append(row)
        if finished:
            going = [i for i, row in enumerate(self.rows) if not row.finish_reason]
            drawn = drawn[going]
            self._keep(going)
        if self.rows:
            self._extend(drawn)
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
        """Whether a match may end in this token: decoding a row at each token would dominate the CPU."""
        last = frozenset(text[-1] for text in stop)
        if last not in self._closers:
            plain = all(char.isascii() for char in last)
            size = len(self._tokenizer)
            pieces = self._tokenizer.batch_decode([[i] for i in range(size)]) if plain else []
            self._closers[last] = (
                frozenset(i for i, piece in enumerate(pieces) if last & set(piece))
                if plain
                else None  # a character may be spread over several byte tokens: always look
            )
        closers = self._closers[last]
        return closers is None or token in closers

    def _keep(self, index: list[int]) -> None:
        self.rows = [self.rows[i] for i in index]
        keep = torch.tensor(index, dtype=torch.long, device=self._seen.device)
        self._seen = self._seen[keep]
        blank = int((~self._seen.any(0)).long().cumprod(0).sum()) if index else 0
        self._seen = self._seen[:, blank:]
        for layer in self._cache.layers:
            layer.hold(layer.keys[keep, :, blank:], layer.values[keep, :, blank:])

    def _extend(self, tokens: torch.Tensor) -> None:
        position = self._seen.sum(1, keepdim=True)
        self._seen = torch.nn.functional.pad(self._seen, (0, 1), value=True)
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=attention_mask(self._model, self._seen[:, None, None, :]),
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._logits = output.logits[:, -1].float()


def _pad_left(states: torch.Tensor, length: int) -> torch.Tensor:
    """Pad dimension -2 on the left with zeros (False)."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[-2], 0))


def draw(
    logits: torch.Tensor,
    temperature: Sequence[float],
    top_p: Sequence[float],
    uniforms: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token per row from logits [rows, vocabulary] by inverting the nucleus' distribution.

    Temperature 0 takes the most likely token. Returns token ids [rows] and their log-probabilities
    under the model itself (temperature 1, no nucleus) [rows].
    """
    tokens = logits.argmax(-1)
    hot = [i for i, value in enumerate(temperature) if value > 0]
    if hot:
        index = torch.tensor(hot, device=logits.device)
        heat = torch.tensor([temperature[i] for i in hot], device=logits.device)
        nucleus = torch.tensor([top_p[i] for i in hot], device=logits.device)
        point = torch.tensor([uniforms[i] for i in hot], device=logits.device)
        chances, order = (logits[index] / heat[:, None]).softmax(-1).sort(-1, descending=True)
        outside = chances.cumsum(-1) - chances >= nucleus[:, None]
        ladder = chances.masked_fill(outside, 0).cumsum(-1)
        rung = (ladder <= (point * ladder[:, -1])[:, None]).sum(-1, keepdim=True)
        last = (~outside).sum(-1, keepdim=True) - 1
        tokens[index] = order.gather(1, rung.minimum(last))[:, 0]
    logprobs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return tokens, logprobs
