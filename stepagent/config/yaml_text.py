"""YAML as this project reads it: no key twice, and nothing that looks like a text becomes something else.

YAML 1.1 reads 12:30 as 750, 010 as 8, 2024-01-01 as a date and 1e-5 as a text. In a config these are texts, texts,
texts and a number. In the front matter of a prompt every scalar is a text, `yes` and `2` too.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_NULL = "tag:yaml.org,2002:null"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_PATTERNS = {
    _INT: re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"),
    _FLOAT: re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"
        r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
}


class RepeatedKeyError(yaml.YAMLError):
    """A key that a mapping holds twice; `line` and `first` count from 0."""

    def __init__(self, key: str, line: int, first: int) -> None:
        super().__init__(key)
        self.key, self.line, self.first = key, line, first


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, whose mappings have texts as keys, each once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping. Raises RepeatedKeyError."""
        _refuse_repeated(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return a node's value. Raises ConstructorError for a scalar that its tag cannot hold, such as `!!int x`."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


class _TextLoader(yaml.SafeLoader):
    """A loader whose plain scalars are texts or null."""


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes each text which the loader would read as something else."""


def _resolvers(kinds: dict[str, re.Pattern[str]] | None) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Return YAML's rules for plain scalars with other patterns for numbers; without `kinds` for null alone."""
    rules: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept_tags = (_NULL,) if kinds is None else ("tag:yaml.org,2002:bool", _NULL, "tag:yaml.org,2002:merge")
        rules[first] = [(tag, pattern) for tag, pattern in entries if tag in kept_tags]
    for tag, pattern in (kinds or {}).items():
        for first in "-+0123456789.":
            rules.setdefault(first, []).append((tag, pattern))
    return rules


_Loader.yaml_implicit_resolvers = _resolvers(_PATTERNS)
_TextLoader.yaml_implicit_resolvers = _resolvers(None)
_Dumper.yaml_implicit_resolvers = {
    first: [*rules, *(rule for rule in _Loader.yaml_implicit_resolvers.get(first, ()) if rule not in rules)]
    for first, rules in {**_Loader.yaml_implicit_resolvers, **yaml.SafeDumper.yaml_implicit_resolvers}.items()
}


def read_yaml(text: str) -> Any:
    """Return the data of a YAML text. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def key_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """Return the line, from 1, of every key and list item of a YAML text, by the keys and numbers (from 0) that lead
    to it. Raises yaml.YAMLError."""
    loader = _Loader(text)
    lines: dict[tuple[str | int, ...], int] = {}
    try:
        _note_lines(loader.get_single_node(), (), lines, above=())
    finally:
        loader.dispose()
    return lines


def _note_lines(
    node: Any, place: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], *, above: tuple[Any, ...]
) -> None:
    if node in above:  # an alias of something that holds it
        return
    children: list[tuple[Any, str | int, Any]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(key, str(key.value), value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(item, number, item) for number, item in enumerate(node.value)]
    for mark, name, child in children:
        lines[*place, name] = mark.start_mark.line + 1
        _note_lines(child, (*place, name), lines, above=(*above, node))


def write_yaml(data: object) -> str:
    """Return data as YAML that `read_yaml` reads back as they are."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


def read_texts(text: str, sections: tuple[str, ...]) -> Any:
    """Return the data of a YAML text whose scalars are texts (None for null and for nothing), as are lists and
    mappings in brackets: `[[A]]` is the text [[A]]. At the top stands a mapping, and the keys `sections` may hold
    others. Raises yaml.YAMLError."""
    loader = _TextLoader(text)
    try:
        return _texts(loader.get_single_node(), text, sections)
    finally:
        loader.dispose()


def _texts(node: Any, text: str, sections: tuple[str, ...] | None) -> Any:
    """Return a node as texts; a mapping only where `sections` are given, which are those of its keys that may hold
    further mappings."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return None if node is None or node.tag == _NULL else str(node.value)
    if sections is None or not isinstance(node, yaml.MappingNode):
        if not node.flow_style:
            raise yaml.MarkedYAMLError(problem="not a text", problem_mark=node.start_mark)
        return text[node.start_mark.index : node.end_mark.index]
    _refuse_repeated(node)
    return {str(key.value): _texts(value, text, () if key.value in sections else None) for key, value in node.value}


def _refuse_repeated(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line
        if name in lines and name != "<<":
            raise RepeatedKeyError(name, line, lines[name])
        lines[name] = line


def yaml_fault(error: yaml.YAMLError, path: object, before: int = 0) -> str:
    """Return the sentence about a YAML text that cannot be read, with file and line. `before` is the number of lines of
    the file before the text."""
    if isinstance(error, RepeatedKeyError):
        line, first = error.line + 1 + before, error.first + 1 + before
        return f"{path}:{line}: the key '{error.key}' is there already, in line {first}; keep one of them"
    mark = getattr(error, "problem_mark", None)
    line_text = f":{mark.line + 1 + before}" if mark else ""
    return f"{path}{line_text}: not valid YAML; check indentation and quotes"
