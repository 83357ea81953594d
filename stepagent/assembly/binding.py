"""From a component's settings to a bound component: the class, its checked arguments, its parts.

Built-ins and own classes (`kind: my_module:MyJudge`) take the same path. Binding makes nothing: a wrong key or a bad
prompt file is reported before a model is loaded.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, create_model

from stepagent.config.arguments import PromptFile, Transport
from stepagent.config.component import Component
from stepagent.config.loading import unknown_key, validate
from stepagent.config.prompts import load_judge_prompt, prompt_path
from stepagent.errors import ConfigError
from stepagent.files.runs import hash_path


@dataclass(frozen=True, slots=True)
class ComponentType:
    """A kind of part that a user may swap. `protocol` has the one method `method`; `builtins` maps short kinds to
    `module:Class`; `default` is the kind of settings that name none; `usage` says where such a part belongs."""

    name: str
    protocol: type
    method: str
    builtins: Mapping[str, str]
    default: str | None = None
    usage: str = ""


@dataclass(frozen=True, slots=True)
class Bound:
    """A component that is ready to be made.

    `arguments` are checked and hold the constructor's defaults; `parts` are its own components (a judge's backend,
    a panel's judges); `open` are the parameters that the program fills when it makes the component. `prompts` are the
    prompt files it reads, by argument; `transport` are the arguments that no result depends on.
    """

    role: str
    type: ComponentType
    kind: str
    factory: Callable[..., Any]
    arguments: Mapping[str, Any]
    parts: Mapping[str, Bound | tuple[Bound, ...]] = field(default_factory=dict)
    open: frozenset[str] = frozenset()
    prompts: Mapping[str, Path] = field(default_factory=dict)
    transport: frozenset[str] = frozenset()

    def make(self, **objects: object) -> Any:
        """Return the component itself. `objects` are the program's, its parts among them, by name; those that the
        constructor does not take, or that the config sets, are left aside."""
        filled = {name: value for name, value in objects.items() if name in self.open or name in self.parts}
        return self.factory(**self.arguments, **filled)

    def prompt(self, default: str) -> str:
        """Return the prompt it asks with; `default` for a class that takes none."""
        return str(self.arguments.get("prompt", default))

    def judge_prompt(self) -> str:
        """Return the prompt in which two steps are compared: its own, or the shipped one if it asks for something else
        (rollouts, grades) or for nothing."""
        marks = getattr(_hints(self.factory).get("prompt"), "__metadata__", ())
        compares = not any(isinstance(mark, PromptFile) and mark.load is not load_judge_prompt for mark in marks)
        return self.prompt("judge_pairwise") if compares else "judge_pairwise"

    def identity(self) -> dict[str, object]:
        """Everything that its results depend on, as plain data: its kind, its arguments, the content of each file or
        model folder that an argument names, its parts. Equal identities give equal results."""
        counted = {name: value for name, value in self.arguments.items() if name not in self.transport}
        files = {name: hash_path(path) for name, path in self._paths().items()}
        parts = {
            name: [member.identity() for member in part] if isinstance(part, tuple) else part.identity()
            for name, part in self.parts.items()
        }
        return {"kind": self.kind, "arguments": counted, "files": files, "parts": parts}

    def _paths(self) -> dict[str, Path]:
        paths = dict(self.prompts)
        for name, value in self.arguments.items():
            if name not in paths and isinstance(value, str | Path) and _is_path(value):
                paths[name] = Path(value)
        return paths


def bind(
    role: str, component: Component, type_: ComponentType, *, types: Sequence[ComponentType], offers: Mapping[str, type]
) -> Bound:
    """Bind the settings of a component of this type. `role` is its place in the config, `types` are all types, for
    the parts it holds. `offers` are the objects that the program gives when it makes components, by name, with the
    protocol of each: they fill the parameters of those names that the config does not set.

    Raises ConfigError for an unknown kind, a class that cannot be imported or is of another type, a wrong argument
    or a bad prompt file.
    """
    factory = _factory(role, component.kind, type_, types=types)
    signature = inspect.signature(factory).parameters.values()
    parameters = {p.name: p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    settings = component.arguments()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
        for key in settings.keys() - parameters.keys():
            raise ConfigError(unknown_key(key, [role], list(parameters)))
    hints = _hints(factory)
    part_types = {name: _part_type(name, hints.get(name), types) for name in parameters}
    parts: dict[str, Bound | tuple[Bound, ...]] = {}
    filled: set[str] = set()
    for name, parameter in parameters.items():
        part_type = part_types[name]
        if part_type is not None and name in settings:
            parts[name] = _bind_part(f"{role}.{name}", settings.pop(name), part_type, types=types, offers=offers)
        elif name in offers and name not in settings and (part_type is None or offers[name] is part_type.type.protocol):
            filled.add(name)
        elif part_type is not None and parameter.default is parameter.empty:
            example = part_type.default or next(iter(part_type.builtins))
            raise ConfigError(f"{role}.{name}: name the {part_type.name}, such as {{kind: {example}, ...}}")
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in parameters.items()
        if name not in parts and name not in filled
    }
    lenient = ConfigDict(arbitrary_types_allowed=True, extra="allow")
    checked = validate(create_model(component.kind, __config__=lenient, **fields), settings, role)
    extra = {name: value for name, value in settings.items() if name not in fields}
    arguments = {**{name: getattr(checked, name) for name in fields}, **extra}
    prompts, transport = _marked(hints, arguments)
    return Bound(
        role,
        type_,
        component.kind,
        factory=factory,
        arguments=arguments,
        parts=parts,
        open=frozenset(filled),
        prompts=prompts,
        transport=transport,
    )


def _factory(role: str, kind: str, type_: ComponentType, *, types: Sequence[ComponentType]) -> Callable[..., Any]:
    target = type_.builtins.get(kind, kind)
    if ":" not in target:
        elsewhere = next((candidate for candidate in types if kind in candidate.builtins), None)
        near = get_close_matches(kind, type_.builtins, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(type_.builtins))}"
        if elsewhere:
            raise ConfigError(
                f"{role}.kind: '{kind}' is no {type_.name} but a {elsewhere.name}; {elsewhere.usage}; {hint}"
            )
        raise ConfigError(f"{role}.kind: unknown kind '{kind}'; {hint}, or name a class as module:Class")
    factory: Callable[..., Any] = import_object(
        f"{role}.kind", target, "install stepagent[train]" if kind in type_.builtins else None
    )
    if inspect.isclass(factory) and not hasattr(factory, type_.method):
        raise ConfigError(f"{role}.kind: '{kind}' is no {type_.name}: it has no method '{type_.method}'")
    return factory


def _bind_part(
    role: str, settings: object, type_: _PartType, *, types: Sequence[ComponentType], offers: Mapping[str, type]
) -> Bound | tuple[Bound, ...]:
    if type_.several:
        if not isinstance(settings, list):
            raise ConfigError(f"{role}: expected a list of settings such as [{{kind: {type_.default}}}]")
        return tuple(
            bind(
                f"{role}.{number}",
                _component(f"{role}: item {number}", item, type_),
                type_.type,
                types=types,
                offers=offers,
            )
            for number, item in enumerate(settings, start=1)
        )
    component = _component(role, settings, type_)
    # a backend with an address of its own is not reached by the run's server
    inner = {"model": str} if "base_url" in component.arguments() else offers
    return bind(role, component, type_.type, types=types, offers=inner)


def _component(role: str, settings: object, type_: _PartType) -> Component:
    if not isinstance(settings, dict):
        raise ConfigError(f"{role} must be settings such as {{kind: {type_.default}, ...}}")
    if type_.default is None and "kind" not in settings:
        raise ConfigError(f"{role}.kind: name one of {', '.join(type_.builtins)}, or a class as module:Class")
    return Component(**{"kind": type_.default, **settings})


@dataclass(frozen=True, slots=True)
class _PartType:
    """The type of a constructor's parameter that takes a component, or several."""

    type: ComponentType
    several: bool

    @property
    def name(self) -> str:
        return self.type.name

    @property
    def default(self) -> str | None:
        return self.type.default

    @property
    def builtins(self) -> Mapping[str, str]:
        return self.type.builtins


def _part_type(name: str, hint: Any, types: Sequence[ComponentType]) -> _PartType | None:
    """Return the component type that a parameter's annotation names; its name decides where it has no annotation."""
    for type_ in types:
        if hint is type_.protocol:
            return _PartType(type_, several=False)
        if type_.protocol in get_args(hint) and get_origin(hint) is not None:
            several = inspect.isclass(origin := get_origin(hint)) and issubclass(origin, Sequence)
            return _PartType(type_, several)
        if hint in (None, Any) and name in (type_.name, f"{type_.name}s"):
            return _PartType(type_, several=name.endswith("s"))
    return None


def _marked(hints: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[dict[str, Path], frozenset[str]]:
    """Return the prompt files among the arguments, loaded once to check them, and the arguments of the transport."""
    prompts: dict[str, Path] = {}
    transport: set[str] = set()
    for name, value in arguments.items():
        marks = getattr(hints.get(name), "__metadata__", ()) if get_origin(hints.get(name)) is Annotated else ()
        for mark in marks:
            if isinstance(mark, PromptFile):
                mark.load(value)
            if isinstance(mark, Transport) and isinstance(value, mark.only):
                transport.add(name)
        marked = any(isinstance(mark, PromptFile) for mark in marks)
        if isinstance(value, str) and (marked or (name == "prompt" and _is_path(prompt_path(value)))):
            prompts[name] = prompt_path(value)
    return prompts, frozenset(transport)


def _is_path(value: str | Path) -> bool:
    try:
        path = Path(value)
        return path.is_file() or (path != Path() and (path / "config.json").is_file())
    except (OSError, ValueError):  # a text that is too long, or holds a character that no path can
        return False


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    except NameError:  # annotations that only a type checker can resolve: leave the arguments unchecked
        return {}


def import_object(role: str, target: str, remedy: str | None = None) -> Any:
    """Return the object that `target` names as module:name; modules in the working directory count.

    Raises ConfigError naming `role`.
    """
    module, _, name = target.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = remedy or "check the name and that the module can be imported from here"
        raise ConfigError(f"{role}: cannot import '{target}' ({error}); {remedy}") from None
