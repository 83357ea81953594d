"""From a component's settings to the object it names. Built-ins and own classes use the same path."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, get_type_hints

from pydantic import ConfigDict, create_model

from stepagent.config.loading import unknown_key, validate
from stepagent.config.settings import Component
from stepagent.errors import ConfigError


def bind(
    role: str, component: Component, builtins: Mapping[str, str], given: Mapping[str, object]
) -> partial[Any]:
    """What makes a component when it is called, its arguments checked: `builtins` maps short kinds to
    `module:Class`; own classes use the same path.

    `given` are objects the program supplies (a backend, a model folder): they are passed where the
    constructor has a parameter of that name and the config does not set it.
    Raises ConfigError for an unknown kind, a class that cannot be imported or a wrong argument.
    """
    target = builtins.get(component.kind, component.kind)
    if ":" not in target:
        near = get_close_matches(component.kind, builtins, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(builtins))}"
        raise ConfigError(
            f"{role}.kind: unknown kind '{component.kind}'; {hint}, or name a class as module:Class"
        )
    builtin = component.kind in builtins
    factory = import_object(f"{role}.kind", target, "install stepagent[train]" if builtin else None)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    every = inspect.signature(factory).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in every)
    arguments = component.arguments()
    for key in arguments:
        if key not in parameters and not takes_any:
            raise ConfigError(unknown_key(key, [role], list(parameters)))
    supplied = {name: given[name] for name in parameters.keys() & given.keys() - arguments.keys()}
    hints = _hints(factory)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in parameters.items()
        if name not in supplied
    }
    lenient = ConfigDict(arbitrary_types_allowed=True, extra="allow")
    checked = validate(create_model(target.partition(":")[2], __config__=lenient, **fields), arguments, role)
    extra = {name: value for name, value in arguments.items() if name not in fields}
    return partial(factory, **{name: getattr(checked, name) for name in fields}, **extra, **supplied)


def _hints(factory: Any) -> dict[str, Any]:
    try:
        return get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    except NameError:  # annotations that only a type checker can resolve: leave the arguments unchecked
        return {}


def import_object(role: str, target: str, remedy: str | None = None) -> Any:
    """What `target` names as module:name; modules in the working directory count.

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
