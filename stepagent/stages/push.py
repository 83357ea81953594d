"""`stepagent push`: a model of a run, with its card, its adapter and its preferences, onto the Hugging Face Hub.

The preferences are a data set of their own, org/name-preferences: a server of the model does not load them, the
Hub shows their rows, and `datasets` reads them by name. `serving/`, a rounded copy of the same weights, stays here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from stepagent.config.loading import load_config
from stepagent.console import Ticker, bar, table
from stepagent.errors import ConfigError, ModelError
from stepagent.files.hub import MARK, Hub, Repository
from stepagent.files.runs import RunFolder, hash_path, newest_model
from stepagent.report.card import data_card, model_card
from stepagent.report.card_facts import card_facts, is_local
from stepagent.types import ModelVersion

_LEFT = ("README.md", "adapter/README.md", "serving/")
"""Files of a model's folder that are not uploaded: cards that name paths of this machine, and the rounded copy."""
_ROUND_FILES = ("preferences.jsonl", "trees.jsonl")
_MEGABYTE = 1_000_000


def push_command(path: Path, name: str, model: str | None, *, public: bool) -> list[str]:
    """Upload a run's newest good model, or the one named `model`, to the repository `name`, and the preferences and
    trees of all its finished rounds to the data set `name`-preferences. Everything is checked before anything is
    uploaded; the same command finishes an upload that was interrupted. Returns the addresses of the repositories.

    Raises ConfigError, ModelError or DataError for a run or model that cannot be pushed, RefusedError for a name or a
    token of no use, BackendError if the Hub fails.
    """
    run, version = _chosen(path, model)
    hub, repository = Hub(), Repository(name)
    rounds = finished_rounds(run)
    data = Repository(f"{name}-preferences", "dataset") if rounds else None
    repositories = [repository, *([data] if data else [])]
    for target in repositories:
        hub.check_name(target)
    mark = {"run": run.path.resolve().name, "model": version.name, "sha256": _recorded(run, version)}
    hub.check_writer(repository)
    states = {target: hub.check_free(target, mark, public=public) for target in repositories}
    _check_unchanged(version, mark["sha256"])
    facts = card_facts(path)
    uploads: dict[Repository, dict[str, Path | bytes]] = {
        repository: {
            **model_files(Path(version.path)),
            "README.md": model_card(facts, version.name, repository=name, data=data.name if data else None).encode(),
        }
    }
    if data:
        card = data_card(facts, rounds, repository=data.name, model=name)
        uploads[data] = {**round_files(run, rounds), "README.md": card.encode()}
    for target, marked in states.items():
        if marked is None:
            hub.begin(target, mark, public=public)
        elif not marked:
            hub.mark(target, mark)
    for target, files in uploads.items():
        _upload(hub, target, files)
    sizes = {target: sum(map(_size, files.values())) for target, files in uploads.items()}
    rows = {hub.url(target): f"{len(uploads[target])} files, {_megabytes(sizes[target])}" for target in uploads}
    table(f"Pushed {version.name} of {path}, {'public' if public else 'private'}", rows)
    return list(rows)


def _chosen(path: Path, model: str | None) -> tuple[RunFolder, ModelVersion]:
    """Return the run at `path`, and the model that is meant. Raises ConfigError or ModelError."""
    config_path = path / "config.yaml"
    if not config_path.is_file():
        raise ConfigError(f"{path}: not a run's folder (config.yaml is missing); see stepagent iterate")
    run = RunFolder(path)
    if model is None:
        version = newest_model(load_config(config_path), run)
        if not Path(version.path).is_relative_to(path):
            raise ModelError(f"{path}: no model in this run; push what stepagent iterate has trained")
        return run, version
    if not (match := re.fullmatch(r"(?:M_)?(\d+)", model)):
        raise ConfigError(f"--model {model}: not the name of a model of a run; give one such as M_3")
    version = run.model(int(match[1]))
    if not (Path(version.path) / "config.json").is_file():
        names = sorted(
            (folder.parent.name for folder in path.glob("M_*/config.json")), key=lambda name: (len(name), name)
        )
        raise ModelError(f"{path}: no {version.name} in this run; it holds {', '.join(names) or 'no model'}")
    return run, version


def _recorded(run: RunFolder, version: ModelVersion) -> str:
    """Return the sha256 that a model's folder had when it was made, by the run's manifest. Raises ModelError if that
    knows of no such model."""
    number = int(version.name[2:])
    stage = "init" if number == 1 else f"round_{number - 1}: optimize"
    recorded = run.stages().get(stage, {}).get("outputs", {}).get("model")
    if recorded is None:
        raise ModelError(
            f"{version.path}: the run's manifest does not say how it was made; let the run go on, or name another model"
        )
    return str(recorded)


def _check_unchanged(version: ModelVersion, recorded: str) -> None:
    """Raise ModelError if a model's folder has changed since it was made."""
    Ticker()(f"comparing the files of {version.name} with the run's manifest")
    if hash_path(Path(version.path)) != recorded:
        raise ModelError(
            f"{version.path}: not as it was made: a file was changed, added or lost; restore it, or make it again with "
            "stepagent iterate"
        )


def finished_rounds(run: RunFolder) -> list[int]:
    """Return the numbers of the rounds whose search is done and whose files are there."""
    stages = run.stages()
    numbers = (int(path.name[6:]) for path in run.path.glob("round_*") if path.name[6:].isdigit())
    return [
        number
        for number in sorted(numbers)
        if "outputs" in stages.get(f"round_{number}: search", {})
        and all((run.round(number) / name).is_file() for name in _ROUND_FILES)
    ]


def round_files(run: RunFolder, rounds: list[int]) -> dict[str, Path | bytes]:
    """Return the preferences and trees of rounds, by their names in the data set."""
    return {f"round_{number}/{name}": run.round(number) / name for number in rounds for name in _ROUND_FILES}


def model_files(folder: Path) -> dict[str, Path | bytes]:
    """Return the files of a model's folder by their names in the repository, the adapter's among them. The adapter
    names its base by a path of this machine: only the last part of that goes along."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files: dict[str, Path | bytes] = {
        name: path for name, path in paths.items() if not name.startswith(_LEFT) and name != MARK
    }
    adapter = "adapter/adapter_config.json"
    if adapter in paths:
        files[adapter] = _adapter_config(json.loads(paths[adapter].read_text(encoding="utf-8")))
    return files


def _adapter_config(config: dict[str, Any]) -> bytes:
    base = str(config.get("base_model_name_or_path") or "")
    config = {**config, "base_model_name_or_path": Path(base).name if is_local(base) else base}
    return (json.dumps(config, indent=2) + "\n").encode()


def _upload(hub: Hub, repository: Repository, files: Mapping[str, Path | bytes]) -> None:
    """Upload with a progress line. A large file takes minutes, in which only the bytes that leave the machine move."""
    place, before = "", _bytes_sent()

    def figures() -> str:
        return f"{place}; {_megabytes(_bytes_sent() - before)} sent by this machine"

    total = max(1, round(sum(map(_size, files.values())) / _MEGABYTE))
    with bar(f"push {repository.name} (MB)", total, figures) as progress:

        def show(name: str, position: int) -> None:
            nonlocal place
            place = name
            progress.advance(round(position / _MEGABYTE))

        hub.upload(repository, files, show=show)
        progress.advance(total)


def _bytes_sent() -> int:
    counters: Any = psutil.net_io_counters()  # None where the system tells of no network
    return counters.bytes_sent if counters else 0


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:,.1f} MB"
