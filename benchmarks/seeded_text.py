"""Text for the stub server of benchmarks: steps and verdicts of seeded lengths, with stragglers."""

from __future__ import annotations

import math
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass

from stepagent.testing.stub_server import Stub, serve_apart

_FILLER = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=20_000))
_STRAGGLERS, _LONGER = 0.05, 6.0  # this share of replies is longer by this factor


@dataclass(frozen=True)
class SeededText:
    """Steps are lines of a number and words; after `depth` steps comes the end. A verdict prefers the step of the
    larger number. Either has `tokens` tokens in the mean, stragglers aside."""

    tokens: int
    depth: int

    def __call__(self, context: str, seed: int) -> str:
        """Return the reply to a context: a verdict if it shows two steps, else the next step."""
        if "|A " in context:
            first, second = (context.rpartition(f"|{label} ")[2][:6] for label in "AB")
            return f"{self._words(random.Random(context))} [[{'A' if first > second else 'B'}]]"
        rng = random.Random(f"{context}{seed}")
        step = f"{rng.randrange(10**6):06d} {self._words(rng)}"
        return f"{step}\n" if context.rpartition("<assistant>")[2].count("\n") + 1 < self.depth else step

    def _words(self, rng: random.Random) -> str:
        length = self.tokens * math.exp(rng.gauss(-0.125, 0.5))
        if rng.random() < _STRAGGLERS:
            length *= _LONGER
        start = rng.randrange(len(_FILLER) // 2)
        return _FILLER[start : start + max(1, int(length))]


def stub_server(
    slots: int, seconds_per_token: float, tokens: int, *, depth: int, slot_per_choice: bool = False
) -> AbstractContextManager[str]:
    """Return the context manager of a stub in a process of its own; it yields the base URL."""
    stub = Stub(SeededText(tokens, depth), continues=True, model="stub", window=10**6)
    stub.slots, stub.seconds_per_token, stub.slot_per_choice = slots, seconds_per_token, slot_per_choice
    return serve_apart(stub)
