"""Environments of other libraries: problems that are generated, and the library's own scoring of an answer.

Each is a file with a class that has `problems` and `is_right`, made of the settings of `problems: {env: ..., ...}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol

from stepagent.config.settings import ProblemSettings
from stepagent.errors import ConfigError
from stepagent.types import Problem

LIBRARIES = {"reasoning_gym": "pip install stepagent[tasks]", "verifiers": "pip install 'verifiers<0.4'"}
"""The libraries, each with the command that installs it."""


class Environment(Protocol):
    """Problems by number, and their scoring."""

    version: str
    """That of the library: another one may generate other problems."""

    def problems(self) -> Iterator[tuple[str, str | None]]:
        """Yield question and reference answer of each problem; None where only the scoring knows."""
        ...

    def is_right(self, index: int, solution: str) -> bool:
        """Return whether the library's scoring gives a solution of problem `index` (from 0) its full mark."""
        ...


def open_environment(env: str, name: str, *, size: int | None, seed: int, config: Mapping[str, Any]) -> Environment:
    """Return the environment `name` of the library `env`. Raises ConfigError if the library is missing, does not know
    the name, or refuses the config."""
    if env not in LIBRARIES:  # it may come from a data file
        raise ConfigError(f"problems.env: no library '{env}'; choose from {', '.join(LIBRARIES)}")
    try:
        module = import_module(f"stepagent.environments.{env}")
    except ImportError as error:
        remedy = LIBRARIES[env]
        raise ConfigError(f"problems.env: {env} cannot be imported ({error}); install it: {remedy}") from None
    environment: Environment = module.open_environment(name, size, seed, config=config)
    return environment


def generated_problems(settings: ProblemSettings) -> Iterator[tuple[str, Problem]]:
    """Yield the problems of an environment, each with its place. Their metadata name the environment and the problem's
    number, by which its grader finds the rest: the library's own metadata often hold the answer, which no search may
    see. Raises as `open_environment` does."""
    origin = settings.model_dump(mode="json", include={"env", "name", "size", "seed", "config"})
    environment = open_environment(**origin)
    for index, (question, answer) in enumerate(environment.problems()):
        metadata = {"environment": {**origin, "index": index, "version": environment.version}}
        yield f"{settings.source}:{index + 1}", Problem(f"{settings.name}-{index + 1}", question, answer, metadata)
