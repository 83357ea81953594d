"""From a component's settings to a bound component: the class, its checked arguments, its parts.

Built-ins and own classes (`kind: my_module:MyJudge`) take the same path. Binding makes nothing: a wrong key or a bad
prompt file is reported before a model is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_origin

from pydantic import ConfigDict, create_model

from stepagent.assembly.component_types import ComponentType, PartType, is_offered, part_type
from stepagent.assembly.factories import Load, import_object
from stepagent.assembly.factories import hints as hints_of
from stepagent.config.arguments import PromptFile, Transport
from stepagent.config.component import Component
from stepagent.config.loading import Place, unknown_key, validate
from stepagent.config.prompts import Labels, PromptTemplate, load_judge_prompt, prompt_path
from stepagent.errors import ConfigError, Fault, collected
from stepagent.files.runs import hash_path


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

    def takes(self, name: str) -> bool:
        """Return whether the program fills the parameter `name`, its own or one of its parts'."""
        members = [member for part in self.parts.values() for member in (part if isinstance(part, tuple) else (part,))]
        return name in self.open or any(member.takes(name) for member in members)

    def prompt(self, default: str) -> str:
        """Return the prompt it asks with; `default` for a class that takes none."""
        return str(self.arguments.get("prompt", default))

    def judge_template(self) -> tuple[PromptTemplate, Labels]:
        """Return the prompt in which two steps are compared, with its criteria: its own, or the shipped one if it asks
        for something else (rollouts, grades) or for nothing."""
        marks = getattr(hints_of(self.factory).get("prompt"), "__metadata__", ())
        if any(isinstance(mark, PromptFile) and mark.load is not load_judge_prompt for mark in marks):
            return load_judge_prompt("judge_pairwise")
        return load_judge_prompt(self.prompt("judge_pairwise"), str(self.arguments.get("criteria", "")))

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
    role: str,
    component: Component,
    type_: ComponentType,
    *,
    types: Sequence[ComponentType],
    offers: Mapping[str, type],
    load: Load = import_object,
) -> Bound:
    """Bind the settings of a component of this type. `role` is its place in the config, `types` are all types, for
    the parts it holds. `offers` are the objects that the program gives when it makes components, by name, with the
    protocol of each: they fill the parameters of those names that the config does not set. `load` imports its class.

    Raises ConfigError for an unknown kind, a class that cannot be imported or is of another type, a wrong argument
    or a bad prompt file. Its faults are all of these, those of the parts among them.
    """
    return _bind(role, component, type_, surroundings=_Surroundings(types, offers, load))


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """Everything that a binding asks for beside the settings; see `bind`."""

    types: Sequence[ComponentType]
    offers: Mapping[str, type]
    load: Load


def _bind(role: str, component: Component, type_: ComponentType, *, surroundings: _Surroundings) -> Bound:
    place, faults, offers = place_of(role), list[Fault](), surroundings.offers
    factory = _factory(role, component.kind, type_, surroundings=surroundings)
    signature = inspect.signature(factory).parameters.values()
    parameters = {p.name: p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    settings = component.arguments()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
        for key in [key for key in settings if key not in parameters]:
            faults.append(Fault((*place, key), unknown_key(key, [role], list(parameters))))
            del settings[key]
    hints = hints_of(factory)
    parts: dict[str, Bound | tuple[Bound, ...]] = {}
    filled: set[str] = set()
    for name, parameter in parameters.items():
        part = part_type(name, hints.get(name), surroundings.types)
        if part is not None and name in settings:
            parts[name] = ()
            with collected(faults, (*place, name)):
                parts[name] = _bind_part(f"{role}.{name}", settings[name], part, surroundings=surroundings)
            del settings[name]
        elif name not in settings and is_offered(name, part, offers):
            filled.add(name)
        elif part is not None and parameter.default is parameter.empty and name not in settings:
            parts[name] = ()
            example = f"such as {{kind: {part.default or next(iter(part.builtins))}, ...}}"
            faults.append(Fault((*place, name), f"{role}.{name}: name the {part.name}, {example}"))
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in parameters.items()
        if name not in parts and name not in filled
    }
    arguments = settings
    lenient = ConfigDict(arbitrary_types_allowed=True, extra="allow")
    with collected(faults, place):
        checked = validate(create_model(component.kind, __config__=lenient, **fields), settings, role, place=place)
        extra = {name: value for name, value in settings.items() if name not in fields}
        arguments = {**{name: getattr(checked, name) for name in fields}, **extra}
    prompts, transport = _marked(hints, arguments, place, faults=faults)
    if faults:
        raise ConfigError(faults[0].sentence, faults)
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


def _factory(role: str, kind: str, type_: ComponentType, *, surroundings: _Surroundings) -> Callable[..., Any]:
    target, place = type_.builtins.get(kind, kind), (*place_of(role), "kind")
    if ":" not in target:
        elsewhere = next((candidate for candidate in surroundings.types if kind in candidate.builtins), None)
        near = get_close_matches(kind, type_.builtins, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(type_.builtins))}"
        sentence = f"{role}.kind: unknown kind '{kind}'; {hint}, or name a class as module:Class"
        if elsewhere:
            sentence = f"{role}.kind: '{kind}' is no {type_.name} but a {elsewhere.name}; {elsewhere.usage}; {hint}"
        raise ConfigError(sentence, [Fault(place, sentence)])
    remedy = "install stepagent[train]" if kind in type_.builtins else None
    faults: list[Fault] = []
    with collected(faults, place):
        factory: Callable[..., Any] = surroundings.load(f"{role}.kind", target, remedy)
        if inspect.isclass(factory) and not hasattr(factory, type_.method):
            raise ConfigError(f"{role}.kind: '{kind}' is no {type_.name}: it has no method '{type_.method}'")
        try:
            inspect.signature(factory)
        except (TypeError, ValueError):
            raise ConfigError(f"{role}.kind: '{kind}' is no {type_.name}: name a class or a function") from None
        return factory
    raise ConfigError(faults[0].sentence, faults)


def _bind_part(
    role: str, settings: object, part: PartType, *, surroundings: _Surroundings
) -> Bound | tuple[Bound, ...]:
    if not part.several:
        component = _component(role, role, settings, part=part)
        # a backend with an address of its own is not reached by the run's server
        inner = replace(surroundings, offers={"model": str}) if "base_url" in component.arguments() else surroundings
        return _bind(role, component, part.type, surroundings=inner)
    if not isinstance(settings, list):
        raise ConfigError(f"{role}: expected a list of settings such as [{{kind: {part.default}}}]")
    members, faults = [], list[Fault]()
    for number, item in enumerate(settings, start=1):
        member = f"{role}.{number}"
        with collected(faults, place_of(member)):
            component = _component(member, f"{role}: item {number}", item, part=part)
            members.append(_bind(member, component, part.type, surroundings=surroundings))
    if faults:
        raise ConfigError(faults[0].sentence, faults)
    return tuple(members)


def _component(role: str, name: str, settings: object, *, part: PartType) -> Component:
    """Return the settings of a part; `name` is its place for the user."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{name} must be settings such as {{kind: {part.default}, ...}}")
    if part.default is None and "kind" not in settings:
        raise ConfigError(f"{name}.kind: name one of {', '.join(part.builtins)}, or a class as module:Class")
    return validate(Component, {"kind": part.default, **settings}, name, place=place_of(role))


def place_of(role: str) -> Place:
    """Return the keys of a role such as judge.judges.1, whose numbers count from 1."""
    return tuple(int(part) - 1 if part.isdecimal() else part for part in role.split("."))


def _marked(
    hints: Mapping[str, Any], arguments: Mapping[str, Any], place: Place, *, faults: list[Fault]
) -> tuple[dict[str, Path], frozenset[str]]:
    """Return the prompt files among the arguments, loaded once to check them, and the arguments of the transport. Adds
    bad prompt files to `faults`."""
    prompts: dict[str, Path] = {}
    transport: set[str] = set()
    for name, value in arguments.items():
        marks = getattr(hints.get(name), "__metadata__", ()) if get_origin(hints.get(name)) is Annotated else ()
        for mark in marks:
            if isinstance(mark, PromptFile) and isinstance(value, str):
                with collected(faults, (*place, name)):
                    criteria = arguments.get("criteria") if mark.takes_criteria else None
                    mark.load(value, criteria) if isinstance(criteria, str) else mark.load(value)
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
