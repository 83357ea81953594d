"""Continuous batching for a Transformers model: rows join and leave a running batch at any token.

Each row has a slot of the cache, filled from its first column, so that one forward pass extends all rows; a request's n
samples share one prefill, and prompts that begin alike share that of their beginning. Exact for models whose tokens
see all tokens before them, up to `models.spans.Span.steady` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from stepagent.backends.decoding import Decoder, Group
from stepagent.backends.prefixes import Prefix, Prefixes, States, shared
from stepagent.models.batch_attention import BATCH
from stepagent.models.loading import attention_mask

_KEPT_BYTES = 1 << 30  # of states of prompts that have been computed
_WORTH_WAITING = 32  # tokens that another prompt of the same admission computes anyway
_PREFILL_TOKENS = 8192  # at once, padding included
_COLUMNS = 128  # by which the slots grow


class _Slots:
    """The number of tokens that each row of a batch holds, `lengths` [rows], and the columns that the longest one needs
    with its next token, `width`."""

    def __init__(self, device: torch.device) -> None:
        self.hold(torch.zeros(0, dtype=torch.long, device=device))

    def hold(self, lengths: torch.Tensor) -> None:
        """Set the rows' lengths."""
        self.lengths = lengths
        self.width = int(lengths.max()) + 1 if len(lengths) else 1


class _SlotLayer(DynamicLayer):  # type: ignore[misc]
    """Cache layer whose rows hold different numbers of tokens."""

    def __init__(self, slots: _Slots) -> None:
        super().__init__()
        self._slots = slots
        self._room: list[torch.Tensor] = []

    def put(self, first: int, count: int, states: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Write states [heads, tokens, width] into `count` slots from `first` on."""
        length = states[0].shape[1]
        if not self._room:
            self.dtype, self.device = states[0].dtype, states[0].device
            self.is_initialized = True
            self._room = [half.new_zeros(0, half.shape[0], 0, half.shape[2]) for half in states]
        self._grow(first + count, length + 1)
        for room, half in zip(self._room, states, strict=True):
            room[first : first + count, :, :length] = half

    def move(self, source: int, target: int) -> None:
        """Copy a row to another slot."""
        length = int(self._slots.lengths[source])
        for room in self._room:
            room[target, :, :length] = room[source, :, :length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a token's states [rows, heads, 1, width]; return all up to now, [rows, heads, longest, width]."""
        rows, width = len(self._slots.lengths), self._slots.width
        self._grow(rows, width)
        rows_index = torch.arange(rows, device=key_states.device)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[rows_index, :, self._slots.lengths] = states[:, :, 0]
        self.keys, self.values = (room[:rows, :, :width] for room in self._room)
        return self.keys, self.values

    def _grow(self, rows: int, columns: int) -> None:
        """Make room for more rows or columns, and keep the states."""
        have = self._room[0].shape
        if rows <= have[0] and columns <= have[2]:
            return
        rows = max(have[0], rows + rows // 2 if rows > have[0] else 0)  # some to spare: rows come in small groups
        columns = max(have[2], -(-columns // _COLUMNS) * _COLUMNS)
        for place, states in enumerate(self._room):
            self._room[place] = states.new_zeros(rows, states.shape[1], columns, states.shape[3])
            self._room[place][: have[0], :, : have[2]] = states


class RunningBatch(Decoder):
    """All rows of a model in one batch."""

    def __init__(self, model: Any, tokenizer: Any, end_ids: Sequence[int]) -> None:
        super().__init__(model, tokenizer, end_ids)
        self._prefixes = Prefixes(_KEPT_BYTES)
        self.clear()

    def clear(self) -> None:
        """See Decoder."""
        super().clear()
        self._slots = _Slots(self._model.device)
        self._cache = Cache(layer_class_to_replicate=partial(_SlotLayer, self._slots))
        self._logits = torch.zeros(0, 0, device=self._model.device)

    @torch.inference_mode()
    def admit(self, groups: Sequence[Group]) -> None:
        """Add groups (prompt ids, rows) to the batch, after forward passes over what is new in their prompts."""
        if not self.rows:
            self.clear()
        waiting = list(groups)
        with self._attention():
            while waiting:
                wave, waiting = self._wave(waiting)
                for part in _alike(wave):
                    self._prefill(part)

    def _wave(self, waiting: Sequence[Group]) -> tuple[list[tuple[Group, Prefix]], list[Group]]:
        """Return the groups to prefill now, each with what is known of its prompt, and those that wait for the
        beginning that they share with one of them."""
        wave: list[tuple[Group, Prefix]] = []
        later = []
        prompts: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        for group in waiting:
            prefix = self._prefixes.longest(group[0])
            ids = np.asarray(group[0], dtype=np.int64)
            if any(shared(ids[:-1], prompt) >= prefix.length + _WORTH_WAITING for prompt in prompts):
                later.append(group)
            else:
                wave.append((group, prefix))
                prompts.append(ids)
        return wave, later

    def _prefill(self, part: Sequence[tuple[Group, Prefix]]) -> None:
        """Run one forward pass over the new tokens of some prompts, and add their rows to the batch."""
        device = self._model.device
        suffixes = [list(prompt[prefix.length :]) for (prompt, _), prefix in part]
        before = max(prefix.length for _, prefix in part)
        longest = max(map(len, suffixes))
        ids = torch.zeros(len(part), longest, dtype=torch.long, device=device)
        # Padded on the left twice, before what is known and before what is new, so that the last column of each
        # is the last token of every prompt.
        token_mask = torch.zeros(len(part), before + longest, dtype=torch.bool, device=device)
        for row, (tokens, (_, prefix)) in enumerate(zip(suffixes, part, strict=True)):
            ids[row, longest - len(tokens) :] = torch.tensor(tokens, device=device)
            token_mask[row, before - prefix.length : before] = True
            token_mask[row, before + longest - len(tokens) :] = True
        columns = torch.arange(before + longest, device=device)
        causal = columns <= columns[before:, None]
        # Padding attends to itself: a softmax over no key at all is nan, which would spread.
        itself = columns == columns[before:, None]
        mask = (causal & token_mask[:, None, :]) | itself
        cache = _known_cache([prefix for _, prefix in part], before)
        output = self._model(
            input_ids=ids,
            attention_mask=attention_mask(self._model, mask[:, None]),
            # Counted from the first token, so that padding does not shift a row's positions.
            position_ids=(token_mask.cumsum(1) - 1).clamp(min=0)[:, before:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        for row, ((prompt, rows), _) in enumerate(part):
            columns = token_mask[row]
            states = [(layer.keys[row][:, columns], layer.values[row][:, columns]) for layer in cache.layers]
            self._prefixes.add(prompt, states)
            self._join(rows, states, logits[row])

    def _join(self, rows: Sequence[Any], states: States, logits: torch.Tensor) -> None:
        """Add rows that continue one prompt: its `states`, and the `logits` [vocabulary] of the next token."""
        while len(self._cache.layers) < len(states):
            self._cache.layers.append(_SlotLayer(self._slots))
        for layer, half in zip(self._cache.layers, states, strict=True):
            layer.put(len(self.rows), len(rows), half)
        length = self._slots.lengths.new_full((len(rows),), states[0][0].shape[1])
        self._slots.hold(torch.cat([self._slots.lengths, length]))
        added = logits.expand(len(rows), -1)
        self._logits = torch.cat([self._logits, added]) if self.rows else added
        self.rows += rows

    def _keep(self, index: list[int]) -> list[int]:
        """See Decoder; the last rows move into the slots of those that leave."""
        staying, last = set(index), sorted(index)
        order = list(range(len(index)))
        for place in order:
            if place not in staying:
                order[place] = source = last.pop()
                for layer in self._cache.layers:
                    layer.move(source, place)
        self.rows = [self.rows[i] for i in order]
        self._slots.hold(self._slots.lengths[order])
        return order

    def _extend(self, tokens: torch.Tensor) -> None:
        """Append one token to every row ([rows]) and compute the logits of the next."""
        lengths = self._slots.lengths
        visible = torch.arange(self._slots.width, device=lengths.device) <= lengths[:, None]
        with self._attention():
            output = self._model(
                input_ids=tokens[:, None],
                attention_mask=attention_mask(self._model, visible[:, None, None, :]),
                position_ids=lengths[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
        self._slots.hold(lengths + 1)
        self._logits = output.logits[:, -1].float()

    @contextmanager
    def _attention(self) -> Iterator[None]:
        """Let a model that attends by SDPA do so by `batch_attention`."""
        config = self._model.config
        implementation = getattr(config, "_attn_implementation", None)
        if implementation != "sdpa":
            yield
            return
        config._attn_implementation = BATCH
        try:
            yield
        finally:
            config._attn_implementation = implementation


def _known_cache(prefixes: Sequence[Prefix], before: int) -> Cache:
    """Return a cache with the known beginnings of some prompts, padded on the left to `before` tokens."""
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    for layer in range(max(len(prefix.states) for prefix in prefixes)):
        example = next(prefix.states[layer] for prefix in prefixes if prefix.states)
        halves = [half.new_zeros(len(prefixes), half.shape[0], before, half.shape[2]) for half in example]
        for row, prefix in enumerate(prefixes):
            if prefix.length:
                for half, states in zip(halves, prefix.states[layer], strict=True):
                    half[row, :, before - prefix.length :] = states[:, : prefix.length]
        cache.layers.append(DynamicLayer())
        cache.layers[layer].lazy_initialization(*halves)
        cache.layers[layer].keys, cache.layers[layer].values = halves
    return cache


def _alike(groups: Sequence[tuple[Group, Prefix]]) -> Iterator[list[tuple[Group, Prefix]]]:
    """Cut groups into parts whose prompts have similarly many new tokens: padding costs as much as tokens do."""
    part: list[tuple[Group, Prefix]] = []
    longest = 0
    for group, prefix in sorted(groups, key=lambda pair: pair[1].length - len(pair[0][0])):
        count = len(group[0]) - prefix.length
        if part and (2 * count < longest or (len(part) + 1) * longest > _PREFILL_TOKENS):
            yield part
            part = []
        longest = count if not part else longest
        part.append((group, prefix))
    yield part
