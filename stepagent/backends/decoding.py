"""Continuous batching for a Transformers model: rows join and leave a running batch at any token.

Rows are left-padded to one length, so that one forward pass extends all of them; a request's n samples
share one prefill. Each row draws with its own seeded numbers, so its sample does not depend on the rows
that run beside it (beyond floating-point rounding).
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
    """One sample that is being drawn. `uniforms` [max_tokens] holds one number in [0, 1) per token."""

    sampling: Sampling
    max_tokens: int
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    first: list[tuple[int, float]] | None = None


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Cache layer with room to grow: appending a token writes one column instead of copying all."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True
        self.hold(key_states[..., :0, :], value_states[..., :0, :])

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace the cached states, each [rows, heads, length, head_dim]."""
        self.keys, self.values = keys, values
        self._room = (keys, values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states [rows, heads, new length, head_dim]; return all keys and values up to now."""
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
    """The running batch of one model. `rows` are those that still draw."""

    def __init__(self, model: Any, tokenizer: Any, end_ids: Sequence[int]) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._end_ids = frozenset(end_ids)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._closers: dict[frozenset[str], frozenset[int] | None] = {}
        self.rows: list[Row] = []
        self._cache = Cache(layer_class_to_replicate=_RoomyLayer)
        self._token_mask = torch.zeros(0, 0, dtype=torch.bool)  # [rows, length]: a token, not padding
        self._logits = torch.zeros(0, 0)  # [rows, vocabulary]: of the next token

    @torch.inference_mode()
    def admit(self, groups: Sequence[tuple[Sequence[int], Sequence[Row]]]) -> None:
        """Add groups (prompt ids, rows) to the batch, after one forward pass over the prompts of all."""
        device = self._model.device
        longest = max(len(prompt) for prompt, _ in groups)
        ids = torch.full((len(groups), longest), self._pad, device=device)
        token_mask = torch.zeros(len(groups), longest, dtype=torch.bool, device=device)
        for row, (prompt, _) in enumerate(groups):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
            token_mask[row, longest - len(prompt) :] = True
        causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        # Padding attends to itself: a softmax over no key at all is nan, which would spread.
        diagonal = torch.eye(longest, dtype=torch.bool, device=device)
        mask = (causal & token_mask[:, None, :]) | diagonal
        cache = Cache(layer_class_to_replicate=_RoomyLayer)
        output = self._model(
            input_ids=ids,
            attention_mask=attention_mask(self._model, mask[:, None]),
            # Counted from the first token, so that padding does not shift a row's positions.
            position_ids=(token_mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        # All samples of a group start from the same prompt, so its states are copied, not computed again.
        repeat = torch.tensor([len(rows) for _, rows in groups], device=device)
        index = torch.arange(len(groups), device=device).repeat_interleave(repeat)
        self._join(cache, index, token_mask[index], logits=output.logits[:, -1].float()[index])
        self.rows += [row for _, rows in groups for row in rows]

    def _join(self, cache: Cache, index: torch.Tensor, token_mask: torch.Tensor, *, logits: torch.Tensor) -> None:
        """Add rows to the batch: the place of each in `cache` is in `index` [rows]; `token_mask` is
        [rows, length], `logits` [rows, vocabulary]."""
        # An empty batch has no layers yet, or still the length of rows that have left: it is replaced.
        if not self.rows:
            for layer in cache.layers:
                layer.hold(layer.keys[index], layer.values[index])
            self._cache, self._token_mask, self._logits = cache, token_mask, logits
            return
        # Padded on the left, so that the newest token of every row stands in the last column.
        longest = max(self._token_mask.shape[1], token_mask.shape[1])
        for layer, addition in zip(self._cache.layers, cache.layers, strict=True):
            layer.hold(
                torch.cat([_pad_left(layer.keys, longest), _pad_left(addition.keys[index], longest)]),
                torch.cat([_pad_left(layer.values, longest), _pad_left(addition.values[index], longest)]),
            )
        # `_pad_left` pads dimension -2 of cached states, so the masks borrow two dimensions.
        masks = [_pad_left(mask[:, None, :, None], longest)[:, 0, :, 0] for mask in (self._token_mask, token_mask)]
        self._token_mask = torch.cat(masks)
        self._logits = torch.cat([self._logits, logits])

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
            tokens = tokens[unfinished]
            self._keep(unfinished)
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

    def _keep(self, index: list[int]) -> None:
        """Keep the rows at `index` alone, and drop the columns that are padding in all of them."""
        self.rows = [self.rows[i] for i in index]
        keep = torch.tensor(index, dtype=torch.long, device=self._token_mask.device)
        self._token_mask = self._token_mask[keep]
        blank = int((~self._token_mask.any(0)).long().cumprod(0).sum()) if index else 0
        self._token_mask = self._token_mask[:, blank:]
        for layer in self._cache.layers:
            layer.hold(layer.keys[keep, :, blank:], layer.values[keep, :, blank:])

    def _extend(self, tokens: torch.Tensor) -> None:
        """Append one token to every row ([rows]) and compute the logits of the next."""
        position = self._token_mask.sum(1, keepdim=True)
        self._token_mask = torch.nn.functional.pad(self._token_mask, (0, 1), value=True)
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=attention_mask(self._model, self._token_mask[:, None, None, :]),
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._logits = output.logits[:, -1].float()


def _pad_left(states: torch.Tensor, length: int) -> torch.Tensor:
    """Return `states` with dimension -2 padded on the left to `length`, with zeros (False)."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[-2], 0))


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
        chances, order = (logits[index] / temperatures[:, None]).softmax(-1).sort(-1, descending=True)
        # Compared with the mass before a token, so that the likeliest one is inside however small top_p is.
        outside = chances.cumsum(-1) - chances >= nucleus[:, None]
        cumulative = chances.masked_fill(outside, 0).cumsum(-1)
        # Scaling the point instead of the chances renormalises the nucleus with one number a row.
        rank = (cumulative <= (points * cumulative[:, -1])[:, None]).sum(-1, keepdim=True)
        # Rounding can carry a point near 1 past the nucleus.
        last_rank = (~outside).sum(-1, keepdim=True) - 1
        tokens[index] = order.gather(1, rank.minimum(last_rank))[:, 0]
    logprobs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return tokens, logprobs
