"""Everything that it takes to make a run again: command, settings, hashes of the files, versions."""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stepagent.config.yaml_text import write_yaml
from stepagent.report.folder import ReportFolder
from stepagent.report.private import without_keys
from stepagent.report.reading import typed_file, yaml_file
from stepagent.report.shapes import Comparison, JudgeSource

_PACKAGES = ("stepagent", "torch", "transformers", "peft", "openai", "matplotlib")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run's recipe. `hashes` are rows of stage, name and sha256 of an input or output; `versions` are those of the
    machine on which the report is written."""

    command: str
    config: str
    seed: int | None
    hashes: list[tuple[str, str, str]]
    versions: dict[str, str]


def recipe_of(folder: ReportFolder) -> Recipe:
    """Return the recipe, as far as the folder tells it."""
    settings = yaml_file(folder.path / "config.yaml", folder.gaps)
    config = write_yaml(without_keys(settings)) if isinstance(settings, dict) else ""
    return Recipe(_command(folder), config, folder.config.seed, _hashes(folder), versions())


def _command(folder: ReportFolder) -> str:
    """Return the command line that made the folder; an empty text if that cannot be told."""
    path = folder.path
    config = path / "config.yaml"
    if (path / "demo.yaml").is_file():
        return _line("demo", "--runs", path.parent)
    if folder.rounds():
        return _line("iterate", config, "--runs", path.parent)
    if comparison := typed_file(path / "compare.json", Comparison, folder.gaps):
        names = ",".join(dict.fromkeys(point.strategy for point in comparison.points))
        return _line("evaluate", config, "--out", path, "--compare", names, "--budget", comparison.budget)
    if (path / "items.jsonl").is_file():
        origin = typed_file(path / "metrics.json", JudgeSource, folder.gaps) or JudgeSource()
        sample = ("--sample", origin.sample) if origin.sample else ()
        return _line("judge", config, "--out", path, "--evaluate", origin.data or "DATA", *sample)
    if (path / "search.json").is_file():
        return _line("search", config, "--out", path)
    return _line("evaluate", config, "--out", path) if (path / "metrics.json").is_file() else ""


def _line(*words: Path | str | int | None) -> str:
    return shlex.join(["stepagent", *(str(word) for word in words)])


def _hashes(folder: ReportFolder) -> list[tuple[str, str, str]]:
    return [
        (stage, f"{kind}: {name}", digest)
        for stage, entry in folder.manifest().items()
        for kind, files in (("input", entry.inputs), ("output", entry.outputs))
        for name, digest in files.items()
        if not digest.startswith("name:")
    ]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on, as far as they are installed."""
    found_versions = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found_versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return found_versions
