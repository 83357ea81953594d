"""From a config to the objects it names: backend, generator, judge, search strategy."""

from __future__ import annotations

from dataclasses import dataclass

from stepagent import backends, generators, judges, search
from stepagent.config import KINDS, Component, Config, build
from stepagent.errors import ConfigError
from stepagent.interfaces import Backend, Generator, Judge, SearchStrategy
from stepagent.pipeline.progress import console


@dataclass(frozen=True, slots=True)
class Components:
    """What a search or an evaluation works with."""

    backend: Backend
    generator: Generator
    judge: Judge
    strategy: SearchStrategy


def make_backend(component: Component, model: str, role: str = "backend") -> Backend:
    """The backend of a config; `model` is used where the config names none."""
    console.print(f"{role}: {component.kind}, {component.arguments().get('model', model)}", style="dim")
    made: Backend = build(role, component, backends.BUILTIN, {"model": model})
    return made


def make_judge(component: Component, backend: Backend, model: str) -> Judge:
    """The judge: with a backend of its own if the config gives it one, else the generator's (the model
    judges itself)."""
    nested = component.arguments().get("backend")
    if nested is not None:
        if not isinstance(nested, dict):
            raise ConfigError("judge.backend: expected settings such as {kind: ..., model: ...}")
        nested = Component(**{"kind": KINDS["backend"], **nested})
        backend = make_backend(nested, model, "judge.backend")
        rest = {key: value for key, value in component.arguments().items() if key != "backend"}
        component = Component(kind=component.kind, params=rest)
    made: Judge = build("judge", component, judges.BUILTIN, {"backend": backend})
    return made


def make_components(config: Config, model: str) -> Components:
    """Everything a search needs. Raises ConfigError or ModelError before any work is done."""
    backend = make_backend(config.backend, model)
    generator: Generator = build("generator", config.generator, generators.BUILTIN, {"backend": backend})
    judge = make_judge(config.judge, backend, model)
    strategy: SearchStrategy = build(
        "search", config.search, search.BUILTIN, {"generator": generator, "judge": judge}
    )
    return Components(backend, generator, judge, strategy)
