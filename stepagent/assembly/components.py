"""From a config to the objects it names: backend, judge, search strategy."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepagent import backends, generators, judges, search
from stepagent.assembly.binding import bind
from stepagent.assembly.session import Resources
from stepagent.backends.wrapper import Wrapper
from stepagent.config.loading import check_base_url
from stepagent.config.prompts import (
    judge_prompt_name,
    load_judge_prompt,
    load_prompt,
    load_rubric_prompt,
    solve_prompt,
)
from stepagent.config.settings import KINDS, Component, Config
from stepagent.console import console
from stepagent.errors import ConfigError
from stepagent.files.problems import Answers
from stepagent.interfaces import Backend, Generator, Judge, SearchStrategy

_BUILTIN = {"generator": generators.BUILTIN, "judge": judges.BUILTIN, "search": search.BUILTIN}


@dataclass(frozen=True, slots=True)
class Components:
    """What a search or an evaluation works with."""

    backend: Backend
    generator: Generator
    judge: Judge
    strategy: SearchStrategy
    resources: Resources

    async def prefix_cache(self) -> tuple[float, float] | None:
        """See Wrapper: the counts of the server that generates."""
        return await Wrapper(self.backend).prefix_cache()


def make_components(
    config: Config, model: str, resources: Resources, served: Mapping[str, object] | None = None
) -> Components:
    """Everything a search needs, on `model`. `served` are the arguments of a backend that asks the run's own
    server. Raises ConfigError or ModelError."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("only init and optimize run in several processes; start this command alone")
    given: dict[str, object] = {"model": model, **(served or {})}
    backend: Backend = _bind("backend", config.backend, given, resources.wrap)()
    given["backend"] = backend
    held_out = [config.evaluate.problems] if config.evaluate else []
    given["answers"] = Answers([config.problems, *held_out], resources.folder)
    generator = _bind("generator", config.generator, given, resources.wrap)()
    judge = _bind("judge", config.judge, given, resources.wrap)()
    strategy = _bind("search", config.search, {"generator": generator, "judge": judge})()
    return Components(backend, generator, judge, strategy, resources)


def make_strategy(config: Config, components: Components) -> SearchStrategy:
    """The config's strategy, on the judge and the generator that are there. Raises ConfigError."""
    given = {"generator": components.generator, "judge": components.judge}
    made: SearchStrategy = _bind("search", config.search, given)()
    return made


def make_judge(
    role: str, judge: Component, config: Config, model: str, resources: Resources, backend: Backend | None
) -> Judge:
    """Another judge, beside what is there. One whose settings name no backend asks `backend`, or the config's
    on `model` if there is none yet. Raises ConfigError or ModelError."""
    given: dict[str, object] = {"model": model}
    if "backend" not in judge.arguments():
        given["backend"] = backend or _bind("backend", config.backend, given, resources.wrap)()
    made: Judge = _bind(f"{role}.judge", judge, given, resources.wrap)()
    return made


def parameters_of(strategy: Component) -> frozenset[str]:
    """The names that a strategy's constructor takes. Raises ConfigError for one that could not be made."""
    made = bind("search", strategy, search.BUILTIN, {"generator": None, "judge": None})
    return frozenset(inspect.signature(made.func).parameters)


def check_components(config: Config) -> None:
    """Raise ConfigError for a component that could not be made; loads no model."""
    given = _nothing_made(config)
    _bind("backend", config.backend, given)
    check_generator(config)
    _bind("judge", config.judge, given)
    _bind("search", config.search, given)
    _check_prompt(config.judge)


def check_generator(config: Config) -> None:
    """Raise ConfigError for a generator that could not be made. Loads no torch: the config's backend is not
    looked at."""
    _bind("generator", config.generator, _nothing_made(config))
    if config.generator.kind == KINDS["generator"]:
        solve_prompt(config.generator)


def _nothing_made(config: Config) -> dict[str, object]:
    """Stand-ins for what the program supplies, to check arguments with."""
    given: dict[str, object] = {"backend": None, "model": "", "generator": None, "judge": None, "answers": {}}
    if config.serve and config.serve.command:
        given["base_url"] = ""
    return given


def _check_prompt(judge: Component) -> None:
    name = judge_prompt_name(judge)
    if judge.kind in ("pairwise", "logprob"):
        load_judge_prompt(name)
    elif judge.kind == "pointwise":
        load_rubric_prompt(name)
    elif judge.kind == "listwise":
        load_prompt(name, ("question", "prefix", "candidates"))


def _bind(
    role: str,
    component: Component,
    given: Mapping[str, object],
    wrap: Callable[[Backend, str], Backend] = lambda backend, _: backend,
) -> Callable[[], Any]:
    """What makes a component. One whose settings hold a `backend` gets that instead of the shared one; a
    backend is wrapped in what is around all of them."""
    arguments = component.arguments()
    nested = arguments.pop("backend", None)
    if role.endswith("backend"):
        shown = arguments.get("model", given["model"])
        if component.kind == "openai" and "base_url" in arguments:
            addresses = arguments["base_url"]
            for address in addresses if isinstance(addresses, list) else [addresses]:
                check_base_url(role, address)
            if addresses == []:
                raise ConfigError(f"{role}.base_url: the list is empty; name at least one endpoint")
        make = bind(role, component, backends.BUILTIN, given)

        def announced() -> Any:
            console.print(f"{role}: {component.kind}, {shown}", style="dim", highlight=False)
            made = make()
            return wrap(made, str(shown)) if hasattr(made, "complete") else made

        return announced
    if role.endswith("judge") and isinstance(members := arguments.get("judges"), list):
        makers = [_member(role, index, member, given, wrap) for index, member in enumerate(members)]
        arguments["judges"] = []
        panel = Component(kind=component.kind, params=arguments)
        bind(role, panel, judges.BUILTIN, given)
        rest = {key: value for key, value in arguments.items() if key != "judges"}
        panel = Component(kind=component.kind, params=rest)
        return lambda: bind(role, panel, judges.BUILTIN, {**given, "judges": [make() for make in makers]})()
    if nested is None:
        return bind(role, component, _BUILTIN[role.rpartition(".")[2]], given)
    if not isinstance(nested, dict):
        raise ConfigError(f"{role}.backend: expected settings such as {{kind: ..., model: ...}}")
    settings = Component(**{"kind": KINDS["backend"], **nested})
    elsewhere = settings.kind != "openai" or "base_url" in settings.arguments()
    about = {"model": given["model"]} if elsewhere else given
    own = _bind(f"{role}.backend", settings, about, wrap)
    alone = Component(kind=component.kind, params=arguments)
    builtin = _BUILTIN[role.rpartition(".")[2]]
    bind(role, alone, builtin, {**given, "backend": None})
    return lambda: bind(role, alone, builtin, {**given, "backend": own()})()


def _member(
    role: str,
    index: int,
    settings: object,
    given: Mapping[str, object],
    wrap: Callable[[Backend, str], Backend],
) -> Callable[[], Any]:
    if not isinstance(settings, dict):
        raise ConfigError(f"{role}.judges: item {index + 1} must be settings such as {{kind: pairwise}}")
    member = Component(**{"kind": KINDS["judge"], **settings})
    _check_prompt(member)
    return _bind(f"{role}.judges.{index + 1}.judge", member, given, wrap)
