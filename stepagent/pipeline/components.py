"""From a config to the objects it names: backend, judge, search strategy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepagent import backends, generators, judges, search
from stepagent.building import bind
from stepagent.config import KINDS, Component, Config
from stepagent.errors import ConfigError
from stepagent.interfaces import Backend, Judge, SearchStrategy
from stepagent.pipeline.progress import console
from stepagent.pipeline.rows import judge_prompt_name, solve_prompt
from stepagent.prompting import load_judge_prompt, load_prompt
from stepagent.runs import hash_path

_BUILTIN = {"generator": generators.BUILTIN, "judge": judges.BUILTIN, "search": search.BUILTIN}


@dataclass(frozen=True, slots=True)
class Components:
    """What a search or an evaluation works with."""

    backend: Backend
    judge: Judge
    strategy: SearchStrategy


def make_components(config: Config, model: str) -> Components:
    """Everything a search needs, on `model`. Raises ConfigError or ModelError."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("only init and optimize run in several processes; start this command alone")
    backend: Backend = _bind("backend", config.backend, {"model": model})()
    given: dict[str, object] = {"backend": backend, "model": model}
    generator = _bind("generator", config.generator, given)()
    judge = _bind("judge", config.judge, given)()
    strategy = _bind("search", config.search, {"generator": generator, "judge": judge})()
    return Components(backend, judge, strategy)


def check_components(config: Config) -> None:
    """Raise ConfigError for a component that could not be made; loads no model."""
    given: dict[str, object] = {"backend": None, "model": "", "generator": None, "judge": None}
    for role, component in (
        ("backend", config.backend),
        ("generator", config.generator),
        ("judge", config.judge),
        ("search", config.search),
    ):
        _bind(role, component, given)
    if config.judge.kind == KINDS["judge"]:
        load_judge_prompt(judge_prompt_name(config.judge))
    if config.generator.kind == KINDS["generator"]:
        solve_prompt(config.generator)


def _bind(role: str, component: Component, given: Mapping[str, object]) -> Callable[[], Any]:
    """What makes a component. One whose settings hold a `backend` gets that instead of the shared one."""
    arguments = component.arguments()
    nested = arguments.pop("backend", None)
    if role.endswith("backend"):
        shown = arguments.get("model", given["model"])
        make = bind(role, component, backends.BUILTIN, given)

        def announced() -> Any:
            console.print(f"{role}: {component.kind}, {shown}", style="dim", highlight=False)
            return make()

        return announced
    if nested is None:
        return bind(role, component, _BUILTIN[role], given)
    if not isinstance(nested, dict):
        raise ConfigError(f"{role}.backend: expected settings such as {{kind: ..., model: ...}}")
    own = _bind(f"{role}.backend", Component(**{"kind": KINDS["backend"], **nested}), given)
    rest = Component(kind=component.kind, params=arguments)
    bind(role, rest, _BUILTIN[role], {**given, "backend": None})
    return lambda: bind(role, rest, _BUILTIN[role], {**given, "backend": own()})()


def identity(config: Config, *keys: str) -> list[object]:
    """What decides a stage's outcome beside its input files: the settings under `keys`, the prompts'
    text, and the judge's own model."""
    settings = config.model_dump(mode="json")
    judge = load_prompt(judge_prompt_name(config.judge), ())
    nested = config.judge.arguments().get("backend") or {}
    return [
        *(settings[key] for key in keys),
        hash_path(solve_prompt(config.generator).path),
        hash_path(judge.path),
        hash_path(Path(str(nested.get("model", "")))) if isinstance(nested, dict) else "",
    ]
