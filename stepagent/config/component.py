"""A component in a config: its kind and the arguments of its constructor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from stepagent.config.yaml_text import read_yaml


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


def judge_section(value: object) -> object:
    """Return the judge section of the file that a path names; anything else as it is. Raises ValueError."""
    if not isinstance(value, str):
        return value
    try:
        content = read_yaml(Path(value).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    section = content.get("judge") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise ValueError(
            f"'{value}' is no file with a section 'judge:', as judge --tune writes it; name one, or write the "
            f"settings themselves, such as {{kind: {KINDS['judge']}}}"
        )
    return {"kind": KINDS["judge"], **section}


JudgeSection = Annotated[Component, BeforeValidator(judge_section)]
"""A judge's settings, or the path of a file that holds them."""
