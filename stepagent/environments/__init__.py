"""Environments of other libraries: problems that are generated, and the library's own scoring of an answer.

Each is a file with a class that has `problems` and `is_right`, made of the settings of `problems: {env: ..., ...}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol

from stepagent.errors import ConfigError

LIBRARIES = {"reasoning_gym": "pip install stepagent[tasks]", "verifiers": "pip install verifiers"}
"""The libraries, each with the command that installs it."""


class Environment(Protocol):
    """Problems by number, and their scoring."""

    version: str
    """That of the library: another one may generate other problems."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield question and reference answer of each problem."""
        ...

    def is_right(self, index: int, solution: str) -> bool:
        """Return whether the library's scoring gives a solution of problem `index` (from 0) its full mark."""
        ...


def open_environment(env: str, name: str, *, size: int | None, seed: int, config: Mapping[str, Any]) -> Environment:
    """Return the environment `name` of the library `env`. Raises ConfigError if the library is missing, does not know
    the name, or refuses the config."""
    try:
        module = import_module(f"stepagent.environments.{env}")
    except ImportError as error:
        remedy = LIBRARIES[env]
        raise ConfigError(f"problems.env: {env} cannot be imported ({error}); install it: {remedy}") from None
    environment: Environment = module.open_environment(name, size, seed, config=config)
    return environment
