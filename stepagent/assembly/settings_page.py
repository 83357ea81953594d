"""The reference page of all settings, docs/settings.md, written from the schema: a table for each section and kind."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from stepagent.assembly.components import TYPES
from stepagent.assembly.schema import NAMES, Schema, config_schema
from stepagent.config import settings as sections

_HEAD = """# Settings

Every setting of a config file. This page is made from the code: `stepagent schema --page > docs/settings.md`, and a
test compares the two. `stepagent schema > stepagent.schema.json` writes the same as a JSON Schema, with which an editor
completes and checks a config; its first line then says so:

```yaml
# yaml-language-server: $schema=stepagent.schema.json
```

`stepagent config new --for laptop --out config.yaml` writes a config to start from. `stepagent config check
config.yaml` names all faults of one, and tells the work of a run and its highest cost. On the command line a setting is
a path: `--set optimize.lora.rank=8`.

A default of *required* means that the setting must be given; *from the run*, that the run fills it in.
"""
_COMPONENTS = """## Components

`backend`, `generator`, `judge`, `search` and `grader` are chosen by their `kind`. The settings of a kind stand
beside it, or under `params:`. A kind may also be a class of your own, `kind: "my_module:MyJudge"`; its constructor's
arguments are then the settings ([CONTRIBUTING.md](../CONTRIBUTING.md)).
"""
_TITLES = {"backend": "Backends", "scorer": "Process reward models", "generator": "Generators"} | {
    "judge": "Judges",
    "search": "Search strategies",
    "grader": "Graders",
}
_TABLE = "| setting | type | default | meaning |\n|---|---|---|---|"
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_WORDS = {"integer": "int", "boolean": "bool", "number": "number", "string": "text", "object": "mapping"}


def settings_page() -> str:
    """Return the page as Markdown."""
    schema = config_schema()
    definitions: Schema = schema["$defs"]
    blocks = [_HEAD, "## The file\n", _table(schema)]
    for name, place in _places(schema, definitions):
        blocks += [f"\n### {place}\n", _wrapped(definitions[name]["description"]), _table(definitions[name])]
    blocks.append(f"\n{_COMPONENTS}")
    for type_ in TYPES:
        role = NAMES[type_.name]
        blocks.append(f"## {_TITLES[role]}\n")
        if role == "scorer":
            blocks.append("They stand at `judge: {kind: prm, backend: {kind: ..., ...}}`.\n")
        for kind in type_.builtins:
            definition = definitions[f"{role}.{kind}"]
            default = " (the default)" if kind == type_.default else ""
            blocks += [f"### {role}: {kind}{default}\n", _wrapped(definition["description"]), _table(definition), ""]
    return "\n".join(blocks).rstrip() + "\n"


def _wrapped(text: str) -> str:
    lines = (textwrap.fill(line, 120, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))
    return "\n\n".join(lines) + "\n"


def _places(section: Schema, definitions: Schema) -> Iterator[tuple[str, str]]:
    """Return the sections within a section, each once, with the places at which they stand."""
    places: dict[str, list[str]] = {}
    pending = [(section, "")]
    while pending:
        current, prefix = pending.pop(0)
        for key, value in current["properties"].items():
            for inner in _references(value):
                if inner in vars(sections):
                    suffix = ".NAME" if "additionalProperties" in value else ""
                    places.setdefault(inner, []).append(f"{prefix}{key}{suffix}")
                    pending.append((definitions[inner], f"{prefix}{key}{suffix}."))
    for inner, names in places.items():
        yield inner, ", ".join(names)


def _references(value: Schema) -> Iterator[str]:
    """Return the names that a value's schema refers to, however deep."""
    if "$ref" in value:
        yield value["$ref"].removeprefix("#/$defs/")
    for inner in (*value.get("anyOf", ()), value.get("items"), value.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from _references(inner)


def _table(definition: Schema) -> str:
    rows = [_TABLE]
    needed = {*definition.get("required", ())} | {
        rule["anyOf"][0]["required"][0] for rule in definition.get("allOf", ())
    }
    for key, value in definition["properties"].items():
        if key in ("kind", "params"):
            continue
        default = "*required*" if key in needed else _default(value)
        rows.append(f"| `{key}` | {_escaped(_type(value))} | {_escaped(default)} | {_escaped(value['description'])} |")
    return "\n".join(rows) if len(rows) > 1 else "No settings."


def _default(value: Schema) -> str:
    if "default" not in value:
        return "*from the run*"
    default = value["default"]
    if default == {}:
        return "`{}`"
    if isinstance(default, dict) and default:  # a section's or component's defaults stand in its own table
        return f"`{{kind: {default['kind']}}}`" if "kind" in default else "its own"
    return f"`{json.dumps(default, ensure_ascii=False)}`" if not isinstance(default, str) else f"`{_quoted(default)}`"


def _quoted(text: str) -> str:
    return text if text.strip() == text and text.isprintable() and text else json.dumps(text, ensure_ascii=False)


def _type(value: Schema) -> str:
    """Return a type in a few words, with its bounds."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(inner) for inner in value["anyOf"]))
    if "$ref" in value:
        name = value["$ref"].removeprefix("#/$defs/")
        return name if name in NAMES.values() else "rule" if name == "Rule" else "section"
    if "enum" in value:
        return ", ".join(map(str, value["enum"]))
    if "const" in value:
        return str(value["const"])
    kind = value.get("type", "any")
    if kind == "array":
        return f"list of {_type(value.get('items', {}))}"
    if kind == "object" and isinstance(inner := value.get("additionalProperties"), dict):
        return f"mapping to {_type(inner)}"
    bounds = " and ".join(f"{sign} {value[bound]:g}" for bound, sign in _BOUNDS.items() if bound in value)
    word = "path" if value.get("format") == "path" else _WORDS.get(kind, kind)
    return f"{word} {bounds}".rstrip()


def _escaped(text: Any) -> str:
    return str(text).replace("|", "\\|")
