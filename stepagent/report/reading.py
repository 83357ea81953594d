"""Reads whatever a run has written so far: rows that are torn, of another version or no rows at all are counted, not
raised, so that a report shows the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from stepagent.config.yaml_text import read_yaml
from stepagent.errors import explain
from stepagent.report.shapes import ConfigFacts
from stepagent.tree import Level, StepTree

T = TypeVar("T")
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}
_SCHEMA = b'"schema":"stepagent/step-tree/1"'


@dataclass(slots=True)
class Gaps:
    """The things that a report cannot show, each with its place and a count."""

    counts: Counter[tuple[Path, str]] = field(default_factory=Counter)

    def add(self, path: Path, reason: str) -> None:
        """Count one row of `path` that is left out, or a file as a whole."""
        self.counts[path, reason] += 1

    def sentences(self, folder: Path) -> list[str]:
        """Return a sentence for each place and reason, with paths as seen from `folder`."""
        return [
            f"{path.relative_to(folder) if path.is_relative_to(folder) else path}: {reason}"
            + (f" ({count:,} times)" if count > 1 else "")
            for (path, reason), count in self.counts.items()
        ]


def rows(path: Path, gaps: Gaps, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each whole line of a JSONL file that is there, from the byte `start` on, with the place where it begins. A last
    line that is still being written is a gap."""
    if not path.is_file():
        return
    position = start
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                gaps.add(path, "its last line is still being written, or was cut off, and is left out")
            elif line.strip():
                yield position, line
            position += len(line)


def typed_rows(path: Path, kind: type[T], gaps: Gaps) -> Iterator[T]:
    """Return the rows of a JSONL file as `kind`; lines that hold something else are gaps."""
    for _, line in rows(path, gaps):
        try:
            row: T = adapter(kind).validate_json(line)
        except ValidationError:
            gaps.add(path, "a row cannot be read and is left out")
            continue
        yield row


def trees(path: Path, gaps: Gaps) -> Iterator[tuple[int, StepTree]]:
    """Return the step trees of a file, each with the place of its line; trees of another version are gaps."""
    for position, line in rows(path, gaps):
        if tree := tree_of(line, path, gaps):
            yield position, tree


def tree_at(path: Path, position: int) -> StepTree | None:
    """Return the tree whose line begins at `position`, or None if the file has changed since."""
    with path.open("rb") as file:
        file.seek(position)
        return tree_of(file.readline(), path, Gaps())


def tree_of(line: bytes, path: Path, gaps: Gaps) -> StepTree | None:
    """Return the step tree in a line of `path`; None, and a gap, if there is none."""
    try:
        tree: StepTree = adapter(StepTree).validate_json(line)
    except ValidationError:
        gaps.add(path, f"a line is no step tree{'' if _SCHEMA in line else ' of this version'} and is left out")
        return None
    if not _is_whole(tree):
        gaps.add(path, "a tree names steps that it does not hold and is left out")
        return None
    return tree


def _is_whole(tree: StepTree) -> bool:
    """Whether every number in the tree that names a node, or a candidate of a level, names one."""
    nodes = range(len(tree.nodes))
    return (
        all(node.parent is None or node.parent in range(i) for i, node in enumerate(tree.nodes))
        and all(node in nodes for node in tree.path)
        and all(_is_whole_level(level, nodes) for level in tree.levels)
    )


def _is_whole_level(level: Level, nodes: range) -> bool:
    nodes_named = {*level.nodes, *level.judged, level.parent, level.chosen} - {None}
    if not all(node in nodes for node in nodes_named) or not {*level.judged, level.chosen} <= {*level.nodes, None}:
        return False
    verdict, places = level.verdict, range(len(level.judged))
    if verdict is None:
        return True
    candidates = {verdict.best, verdict.worst} - {None}
    candidates |= {place for vote in verdict.votes for place in (vote.first, vote.second)}
    return all(place in places for place in candidates) and len(verdict.scores) in (0, len(places))


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """Return the reader of a type: building one takes milliseconds."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def typed_file(path: Path, kind: type[T], gaps: Gaps) -> T | None:
    """Return the content of a JSON file as `kind`; None if there is no file, and a gap if it holds something else."""
    if not path.is_file():
        return None
    try:
        content: T = adapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        gaps.add(path, f"its figures are left out ({explain(error)})")
        return None
    return content


def yaml_file(path: Path, gaps: Gaps) -> Any:
    """Return the content of a YAML file; None if there is no file, and a gap if it cannot be read."""
    if not path.is_file():
        return None
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):
        gaps.add(path, "not readable as YAML; prices, references and settings are left out")
        return None


def config_file(path: Path, gaps: Gaps) -> ConfigFacts:
    """Return the settings in a YAML file; the defaults if there is no file, and a gap if it cannot be read."""
    settings = yaml_file(path, gaps)
    if settings is None:
        return ConfigFacts()
    try:
        facts: ConfigFacts = adapter(ConfigFacts).validate_python(settings)
    except ValidationError as error:
        gaps.add(path, f"not a config; prices, references and settings are left out ({explain(error)})")
        return ConfigFacts()
    return facts
