"""Continuous batching for a Transformers model: rows join and leave a running batch at any token.

Rows are left-padded to one length, so that one forward pass extends all of them; a request's n samples
share one prefill. Exact for models whose tokens see all tokens before them, up to `models.spans.Span.steady` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from stepagent.backends.decoding import Decoder, Group
from stepagent.models.loading import attention_mask


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
            self._room = (_roomier(self.keys, end + 64), _roomier(self.values, end + 64))
        self._room[0][..., start:end, :] = key_states
        self._room[1][..., start:end, :] = value_states
        self.keys, self.values = (half[..., :end, :] for half in self._room)
        return self.keys, self.values


def _roomier(states: torch.Tensor, length: int) -> torch.Tensor:
    """Return a copy of cached states with room for `length` tokens; keys and values may be of different widths."""
    room = states.new_zeros((*states.shape[:-2], length, states.shape[-1]))
    room[..., : states.shape[-2], :] = states
    return room


class RunningBatch(Decoder):
    """All rows of a model in one batch."""

    def __init__(self, model: Any, tokenizer: Any, end_ids: Sequence[int]) -> None:
        super().__init__(model, tokenizer, end_ids)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._cache = Cache(layer_class_to_replicate=_RoomyLayer)
        self._token_mask = torch.zeros(0, 0, dtype=torch.bool)  # [rows, length]: a token, not padding

    @torch.inference_mode()
    def admit(self, groups: Sequence[Group]) -> None:
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
