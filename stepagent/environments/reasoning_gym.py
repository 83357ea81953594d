"""Procedural tasks of reasoning-gym (arXiv 2505.24760)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from stepagent.answers import readings
from stepagent.errors import ConfigError

_FULL = 1 - 1e-6
_SIZE = 500


class ReasoningGym:
    """One of its data sets. An answer is right if the set's own scorer gives it the full mark, 1; part marks are
    for other things."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._entry = lru_cache(1 << 12)(dataset.__getitem__)  # some sets take seconds to make one
        self.version = version("reasoning-gym")

    def problems(self) -> Iterator[tuple[str, str | None]]:
        """See Environment."""
        for index in range(len(self._dataset)):
            entry = self._dataset[index]
            yield str(entry["question"]), None if entry["answer"] is None else str(entry["answer"])

    def is_right(self, index: int, solution: str) -> bool:
        """See Environment. The answer is read as a text, then without marks around it."""
        entry, outcomes = self._entry(index), list[Exception | None]()
        for answer in readings(solution):
            try:
                if self._dataset.score_answer(answer, entry) >= _FULL:
                    return True
                outcomes.append(None)
            except Exception as error:  # noqa: BLE001 (a scorer may raise anything)
                outcomes.append(error)
        if outcomes and outcomes[0] is not None:  # the text as it stands
            raise outcomes[0]
        return False


def open_environment(name: str, size: int | None, seed: int, *, config: Mapping[str, Any]) -> ReasoningGym:
    """Return a data set by its name. Raises ConfigError."""
    if name not in DATASETS:
        near = get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(sorted(DATASETS))}"
        raise ConfigError(f"problems.name: reasoning_gym has no data set '{name}'; {hint}")
    try:
        return ReasoningGym(reasoning_gym.create_dataset(name, size=size or _SIZE, seed=seed, **config))
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"problems.config: reasoning_gym's '{name}' refuses it ({error}); mend it") from None
