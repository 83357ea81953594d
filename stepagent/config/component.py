"""A component in a config: its kind and the arguments of its constructor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Component(BaseModel):
    """`kind` names a built-in or `module:Class`; every other key is an argument of its constructor.

    `params: {...}` is the same as writing its keys beside `kind`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str
    params: dict[str, Any] = {}

    @model_validator(mode="after")
    def _each_argument_once(self) -> Component:
        if twice := sorted((self.model_extra or {}).keys() & self.params.keys()):
            raise ValueError(f"'{twice[0]}' stands beside 'kind' and in 'params'; keep one of them")
        return self

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**(self.model_extra or {}), **self.params}


KINDS = {"backend": "transformers", "generator": "sample", "judge": "pairwise", "search": "step", "grader": "math"}
"""The kind of a component if its settings name none."""


def with_kinds(data: dict[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return `data` with a kind for every component that `kinds` names and that has none."""
    if not isinstance(data, dict):
        return data
    filled = {role: {"kind": kind, **data[role]} for role, kind in kinds.items() if isinstance(data.get(role), dict)}
    return {**data, **filled}
