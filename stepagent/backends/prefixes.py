"""The attention states of prompts that were computed before, for prompts that begin with the same tokens: a problem's
next level, the two orders of a comparison, instructions that many prompts share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

States = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of every layer, each [heads, tokens, head_dim] (the widths of the two may differ)."""


class Prefix(NamedTuple):
    """The first `length` tokens of a prompt, and states that begin with theirs."""

    length: int
    states: States


class Prefixes:
    """States of prompts in up to `room` bytes; beyond them the prompts go that were not used for longest."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._size = 0
        self._states: dict[bytes, States] = {}  # by token ids, the least recently used first

    def longest(self, ids: Sequence[int]) -> Prefix:
        """Return the longest known beginning of `ids`, without their last token: its logits are wanted."""
        query = np.asarray(ids, dtype=np.int64)
        best, length = b"", 0
        for key in self._states:
            common = shared(np.frombuffer(key, np.int64), query[:-1])
            if common > length:
                best, length = key, common
        if not length:
            return Prefix(0, [])
        self._states[best] = states = self._states.pop(best)
        return Prefix(length, states)

    def add(self, ids: Sequence[int], states: States) -> None:
        """Remember the states of `ids`; a prompt that they continue is forgotten."""
        key = np.asarray(ids, dtype=np.int64).tobytes()
        if any(prompt.startswith(key) for prompt in self._states):
            return
        for beginning in [prompt for prompt in self._states if key.startswith(prompt)]:
            self._size -= _size(self._states.pop(beginning))
        self._states[key] = states
        self._size += _size(states)
        while self._size > self._room:
            self._size -= _size(self._states.pop(next(iter(self._states))))


def shared(first: np.ndarray[Any, np.dtype[np.int64]], second: np.ndarray[Any, np.dtype[np.int64]]) -> int:
    """Return the number of tokens with which both begin."""
    length = min(len(first), len(second))
    different = first[:length] != second[:length]
    return int(different.argmax()) if different.any() else length


def _size(states: States) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in states)
