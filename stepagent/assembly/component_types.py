"""The types of component and of the constructors' parameters that take one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin


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
class PartType:
    """The type of a constructor's parameter that takes a component, or several."""

    type: ComponentType
    several: bool

    @property
    def name(self) -> str:
        """The type's name."""
        return self.type.name

    @property
    def default(self) -> str | None:
        """The kind of settings that name none."""
        return self.type.default

    @property
    def builtins(self) -> Mapping[str, str]:
        """The short kinds."""
        return self.type.builtins


def part_type(name: str, hint: Any, types: Sequence[ComponentType]) -> PartType | None:
    """Return the component type that a parameter's annotation names; its name decides where it has no annotation."""
    for type_ in types:
        if hint is type_.protocol:
            return PartType(type_, several=False)
        if type_.protocol in get_args(hint) and get_origin(hint) is not None:
            several = inspect.isclass(origin := get_origin(hint)) and issubclass(origin, Sequence)
            return PartType(type_, several)
        if hint in (None, Any) and name in (type_.name, f"{type_.name}s"):
            return PartType(type_, several=name.endswith("s"))
    return None


def is_offered(name: str, part: PartType | None, offers: Mapping[str, type]) -> bool:
    """Return whether the program fills an argument that the config does not set."""
    return name in offers and (part is None or offers[name] is part.type.protocol)
