"""One YAML file -> frozen settings. Unknown keys are errors that name the nearest key.

A config is trusted like code: `kind: my_module:MyJudge` imports that class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from stepagent.config.settings import Config
from stepagent.config.yaml_text import RepeatedKeyError, read_yaml, yaml_fault
from stepagent.errors import ConfigError, explain

M = TypeVar("M", bound=BaseModel)

_PROBLEMS = frozenset({("problems",), ("eft", "problems"), ("evaluate", "problems")})
"""Sections that a path alone may stand for."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config and apply `--set key.sub=value` overrides (values are YAML).

    Raises ConfigError with the file, the key and the nearest known key.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        data = read_yaml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not valid UTF-8; convert the file") from None
    except yaml.YAMLError as error:
        raise ConfigError(yaml_fault(error, path)) from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys such as 'model:' and 'problems:'")
    for override in overrides:
        _override(data, override)
    return validate(Config, data, str(path))


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *parents, last = (part.strip() for part in key.split("."))
    if not equals or not last or not all(parents):
        raise ConfigError(f"--set {override}: expected key=value, such as --set seed=1")
    for depth, parent in enumerate(parents, start=1):
        section = data.get(parent)
        if isinstance(section, str) and tuple(parents[:depth]) in _PROBLEMS:
            section = {"path": section}  # a path alone stands for settings with that path
        elif section is None:
            section = {}
        elif not isinstance(section, dict):
            name = ".".join(parents[:depth])
            raise ConfigError(f"--set {override}: the config's '{name}' is {section!r}, not a section with keys")
        data[parent] = section
        data = section
    try:
        data[last] = read_yaml(value)
    except RepeatedKeyError as error:
        raise ConfigError(f"--set {override}: the key '{error.key}' is there twice") from None
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML; quote it") from None


def validate(model: type[M], data: Mapping[str, Any], source: str) -> M:
    """Return `data` as `model`. Raises ConfigError that names `source`, the key and a remedy."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] != "extra_forbidden":
            is_yaml = first["type"] == "string_type" and isinstance(first["input"], bool | int | float)
            hint = "; YAML reads it as a number or as true or false: put it in quotes" if is_yaml else ""
            raise ConfigError(f"{source}: {explain(error)}{hint}") from None
        *parents, key = (str(part) for part in first["loc"])
        fields = _fields(model, parents)
        raise ConfigError(f"{source}: {unknown_key(key, parents, fields)}") from None


def unknown_key(key: str, parents: Sequence[str], keys: Sequence[str]) -> str:
    """Return the sentence about an unknown key, with the nearest known one."""
    near = get_close_matches(key, keys, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(keys)}"
    name = ".".join([*parents, key])
    return f"unknown key '{name}'; {hint}"


def _fields(model: type[BaseModel], parents: Sequence[str]) -> list[str]:
    for parent in parents:
        section = next(_models_in(model.model_fields[parent].annotation), None)
        if section is None:
            return []
        model = section
    return list(model.model_fields)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Return the settings classes that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)
