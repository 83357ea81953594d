"""Single-turn environments of verifiers: installed as packages of their own, they bring a data set and a rubric."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import verifiers

from stepagent.errors import ConfigError, DataError

_FULL = 1 - 1e-6


class VerifiersEnvironment:
    """An environment that asks once. The question is the text of its prompt; a solution is right if the rubric's
    reward is 1 or more."""

    def __init__(self, name: str, rows: Any, rubric: Any) -> None:
        self._name = name
        self._rows = rows
        self._rubric = rubric
        self.version = version("verifiers")

    def problems(self) -> Iterator[tuple[str, str | None]]:
        """See Environment. Raises DataError for a prompt that is more than text from the system and the user."""
        for index, row in enumerate(self._rows):
            turns = row["prompt"]
            if isinstance(turns, str):
                turns = [{"role": "user", "content": turns}]
            for turn in turns:
                if turn["role"] not in ("system", "user") or not isinstance(turn["content"], str):
                    raise DataError(f"verifiers {self._name}:{index + 1}: its prompt is no text of one turn")
            yield "\n\n".join(turn["content"] for turn in turns), row.get("answer") or None

    def is_right(self, index: int, solution: str) -> bool:
        """See Environment."""
        row = self._rows[index]
        state = verifiers.State({**row, "completion": [{"role": "assistant", "content": solution}]})
        state.setdefault("info", {})
        state.setdefault("task", self._name)
        asyncio.run(self._rubric.score_rollout(state))
        return float(state["reward"]) >= _FULL


def open_environment(name: str, size: int | None, seed: int, *, config: Mapping[str, Any]) -> VerifiersEnvironment:
    """Return an environment by the name of its package. Raises ConfigError."""
    try:
        environment = verifiers.load_environment(name, **config)
    except Exception as error:  # noqa: BLE001 (an environment's package may raise anything)
        raise ConfigError(f"problems.name: verifiers cannot load '{name}' ({error}); install its package") from None
    if not isinstance(environment, verifiers.SingleTurnEnv):
        raise ConfigError(f"problems.name: '{name}' is no single-turn environment of verifiers; a search asks once")
    return VerifiersEnvironment(name, environment.get_dataset(size or -1, seed), environment.rubric)
