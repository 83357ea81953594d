"""The JSON Schema (draft 2020-12) of a config file: the sections as pydantic describes them, and for every component
one alternative for each built-in kind, made of its constructor's arguments. Imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from stepagent.assembly.component_types import ComponentType, PartType, is_offered, part_type
from stepagent.assembly.components import BACKEND, GENERATOR, GRADER, JUDGE, OFFERS, SCORER, SEARCH, SERVER, TYPES
from stepagent.assembly.factories import hints, load_outline
from stepagent.assembly.meanings import meaning
from stepagent.config import settings as sections

Schema = dict[str, Any]
NAMES = {BACKEND.name: "backend", SCORER.name: "scorer", GENERATOR.name: "generator", JUDGE.name: "judge"} | {
    SEARCH.name: "search",
    GRADER.name: "grader",
}
"""The names of the component types in the schema; a kind is `judge.pairwise`."""
_ROLES = {"backend": BACKEND, "generator": GENERATOR, "judge": JUDGE, "search": SEARCH, "labels": JUDGE} | {
    "teacher": JUDGE,
    "verify": JUDGE,
    "grader": GRADER,
}
"""The types of the components that sections hold, by key."""
_OWN_CLASS = ".+:.+"


@cache
def config_schema() -> Schema:
    """Return the schema of a whole config file."""
    schema = sections.Config.model_json_schema()
    definitions: Schema = {**schema.pop("$defs"), "Config": schema}
    del definitions["Component"]
    for name, definition in definitions.items():
        _describe_section(definition, getattr(sections, name))
    for type_ in TYPES:
        definitions |= _component_definitions(type_)
    root = {**definitions.pop("Config"), "title": "stepagent config"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _describe_section(definition: Schema, section: type[sections.Settings]) -> None:
    """Put meanings, components and paths that stand for problems into a section's schema."""
    bases = [base for base in section.__mro__ if issubclass(base, sections.Settings)]
    names, docstrings = [base.__name__ for base in bases], [inspect.getdoc(base) or "" for base in bases]
    definition["description"] = _text(docstrings[0])
    definition.pop("title", None)
    for key, value in definition["properties"].items():
        value.pop("title", None)
        if factory := section.model_fields[key].default_factory:
            value["default"] = factory()  # type: ignore[call-arg]
        if key in _ROLES:
            value = definition["properties"][key] = _with_component(value, _ROLES[key])
        elif "ProblemSettings" in str(value):
            value["anyOf"] = [{"type": "string"}, *(value.get("anyOf") or [{"$ref": value.pop("$ref")}])]
        value["description"] = meaning(names, key, docstrings)


def _text(docstring: str) -> str:
    """Return a docstring with a line for each paragraph."""
    return "\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


def _with_component(value: Schema, type_: ComponentType) -> Schema:
    """Return the schema of a section's component; a path may stand for a judge."""
    reference: Schema = {"$ref": f"#/$defs/{NAMES[type_.name]}"}
    file: list[Schema] = [{"type": "string"}] if type_ is JUDGE else []
    if "anyOf" in value:
        return {"anyOf": [*file, reference, {"type": "null"}], "default": None}
    alternatives = {"anyOf": [*file, reference]} if file else reference
    return {**alternatives, **({"default": value["default"]} if "default" in value else {})}


def _component_definitions(type_: ComponentType) -> Schema:
    """Return the schemas of a component type: one for each of its kinds, and one of their alternatives."""
    role = NAMES[type_.name]
    definitions: Schema = {}
    for kind, target in type_.builtins.items():
        definitions[f"{role}.{kind}"], further = _kind_schema(type_, kind, target)
        definitions |= further
    own_class = {
        "description": f"A {type_.name} of your own: kind is module:Class, every other key an argument of it.",
        "type": "object",
        "properties": {"kind": {"type": "string", "pattern": _OWN_CLASS}},
        "required": ["kind"],
    }
    alternatives = [{"$ref": f"#/$defs/{role}.{kind}"} for kind in type_.builtins]
    definitions[role] = {"anyOf": [*alternatives, {"$ref": f"#/$defs/{role}.own"}]}
    definitions[f"{role}.own"] = own_class
    return definitions


def _kind_schema(type_: ComponentType, kind: str, target: str) -> tuple[Schema, Schema]:
    """Return the schema of a built-in kind, and the schemas that it refers to."""
    factory = load_outline(type_.name, target)
    docstring = inspect.getdoc(factory) or ""
    name = f"{NAMES[type_.name]}.{kind}"
    properties: Schema = {}
    further: Schema = {}
    required: list[str] = []
    for parameter, schema, offered in _arguments(factory):
        further |= schema.pop("$defs", {})
        if parameter.default is not parameter.empty and not (offered and "$ref" in schema):
            schema["default"] = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        elif not offered:
            required.append(parameter.name)
        properties[parameter.name] = {**schema, "description": meaning([name], parameter.name, [docstring])}
    definition: Schema = {
        "description": _text(docstring),
        "type": "object",
        "properties": {
            "kind": {"const": kind, **({"default": kind} if kind == type_.default else {})},
            **properties,
            "params": {
                "description": "The same arguments; each stands here or beside kind.",
                "type": "object",
                "properties": {key: {"$ref": f"#/$defs/{name}/properties/{key}"} for key in properties},
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    }
    if kind != type_.default:
        definition["required"] = ["kind"]
    if required:
        definition["allOf"] = [{"anyOf": [{"required": [key]}, _in_params(key)]} for key in required]
    return definition, further


def _in_params(key: str) -> Schema:
    return {"properties": {"params": {"required": [key]}}, "required": ["params"]}


def _arguments(factory: Any) -> Iterator[tuple[inspect.Parameter, Schema, bool]]:
    """Return the constructor's arguments that a config can set, each with its schema and whether the run offers it."""
    types: Mapping[str, Any] = hints(factory)
    offers = {**OFFERS, **SERVER}
    for name, parameter in inspect.signature(factory).parameters.items():
        part = part_type(name, types.get(name), TYPES)
        schema = _part_schema(part) if part else _value_schema(types.get(name, Any))
        if schema is not None:
            yield parameter, schema, is_offered(name, part, offers)


def _part_schema(part: PartType) -> Schema:
    reference = {"$ref": f"#/$defs/{NAMES[part.name]}"}
    return {"type": "array", "items": reference} if part.several else reference


def _value_schema(hint: Any) -> Schema | None:
    """Return the schema of a value, None for one that YAML cannot write, such as a function."""
    try:
        schema = TypeAdapter(hint).json_schema(ref_template="#/$defs/{model}")
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return None
    if schema.get("type") == "null":  # of a union whose other types are functions
        return None
    for definition in schema.get("$defs", {}).values():
        definition.pop("title", None)
    return schema
