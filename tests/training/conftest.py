"""Parts that the tests of training share."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from stepagent.training.packing import Target, Unit


class QuietMonitor:
    """A monitor that shows nothing and keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def step(self, step: int, steps: int, metrics: dict[str, float]) -> None: ...

    def warn(self, warning: str) -> None:
        self.warnings.append(warning)


@pytest.fixture
def quiet() -> QuietMonitor:
    """Monitor of a training that shows nothing and keeps the warnings."""
    return QuietMonitor()


@pytest.fixture(scope="session")
def random_units() -> Callable[..., list[Unit]]:
    """Maker of pairs that hang on random prefixes of one another, as in trees, and of some that share nothing."""

    def units(seed: int, count: int, vocabulary: int = 31) -> list[Unit]:
        rng = random.Random(seed)
        trunk = [rng.randrange(vocabulary) for _ in range(40)]
        pairs = []
        for _ in range(count):
            prefix = (
                trunk[: rng.randint(1, 40)] if rng.random() < 0.8 else [rng.randrange(vocabulary) for _ in range(9)]
            )
            steps = [[rng.randrange(vocabulary) for _ in range(rng.randint(1, 9))] for _ in range(2)]
            pairs.append(tuple(Target((*prefix, *step), len(prefix)) for step in steps))
        return pairs

    return units
