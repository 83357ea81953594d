"""The run folder: stages are files, and a manifest of content hashes says which are done.

runs/<name>/
  manifest.json        schema, and for each stage the hashes of its settings, inputs and outputs
  config.yaml          the settings as they were resolved
  responses.sqlite     every reply of an endpoint, with its cost
  data/                problems of other formats as JSONL
  M_1/ M_2/ ...        model folders
  round_1/             problems.jsonl trees.jsonl preferences.jsonl search.json optimize.json training.jsonl
  watch/               problems.jsonl, and M_1.jsonl M_1.json ...: the search by which drift is measured
  evaluation/M_1/      metrics.json trees.jsonl greedy.jsonl pairs.jsonl
  server/              the log of the managed server, the deployment and its proof
  training.jsonl       the steps by which M_1 was trained
  summary.json summary.png report.html, and tracked.json: the files that a tracker has got
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from stepagent.config.settings import Config
from stepagent.console import warn
from stepagent.errors import DataError, StepagentError
from stepagent.files.jsonl import write_json
from stepagent.files.lock import hold, release
from stepagent.types import ModelVersion

SCHEMA = "stepagent/run/2"


def hash_file(path: Path) -> str:
    """sha256 of a file's content, as hex."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_path(path: Path) -> str:
    """sha256 of a file, or of a folder's relative names and contents; the name itself (a hub id, say) if there is
    neither."""
    if path.is_file():
        return hash_file(path)
    if not path.is_dir():
        return f"name:{path}"
    digest = sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def hash_data(data: object) -> str:
    """sha256 of plain data, whatever the order of its keys."""
    return sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


class RunFolder:
    """One run on disk. Raises DataError for the folder of another version of stepagent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest = path / "manifest.json"
        self._mark = time.monotonic()
        manifest = self._read()
        if manifest and manifest.get("schema") != SCHEMA:
            raise DataError(
                f"{self._manifest}: written by another version of stepagent, whose stages this one cannot continue; "
                "finish the run with that version, or choose another folder (its models and JSONL files can be "
                "named as inputs)"
            )

    def model(self, index: int) -> ModelVersion:
        """M_index, in its folder."""
        return ModelVersion(index, str(self.path / f"M_{index}"))

    def round(self, index: int) -> Path:
        """Return the folder of round `index` (from 1), which turns M_index into M_{index+1}."""
        return self.path / f"round_{index}"

    def stages(self) -> dict[str, Any]:
        """Return the manifest's entries, by the name of the stage."""
        return dict(self._read().get("stages", {}))

    def stage(
        self,
        name: str,
        *,
        inputs: Mapping[str, Path],
        outputs: Mapping[str, Path],
        identity: object,
        work: Callable[[], object],
    ) -> bool:
        """Run `work` unless the manifest says that this stage already made these outputs from these inputs with this
        `identity`: the settings, prompts and seeds that decide them. Returns whether it ran. `work` returns False if a
        part of it failed that may succeed when the command is started again: then the stage is not done.

        What a killed run left of the same stage is kept for `work` to continue from. Outputs of another identity or
        of other inputs are moved aside first, to NAME.stale; they come back if `work` fails before it made any. So is
        a model's folder that has changed since it was made.
        """
        hashes = _hashes(inputs, identity)
        earlier = self.stages()
        entry = earlier.get(name, {})
        unchanged = {key: entry.get(key) for key in hashes} == hashes
        if unchanged and entry.get("outputs") == {key: hash_path(path) for key, path in outputs.items()}:
            return False
        hold(self.path)
        _move_changed_folders(entry.get("outputs", {}) if unchanged else {}, outputs)
        if not unchanged:
            replaced = [path for path in outputs.values() if move_aside(path)]
            self._write({**earlier, name: hashes})
        try:
            whole = work() is not False
        except StepagentError:
            if not unchanged and not any(path.exists() for path in outputs.values()):
                for path in replaced:
                    _stale(path).replace(path)
                self._restore(earlier)
            raise
        if not whole:
            return True
        entry = {
            **hashes,
            "outputs": {key: hash_path(path) for key, path in outputs.items()},
            "seconds": round(time.monotonic() - self._mark, 3),
        }
        self._mark = time.monotonic()
        self._write({**self.stages(), name: entry})
        return True

    def begun(self, name: str, inputs: Mapping[str, Path], identity: object) -> bool:
        """Whether this stage was begun, at least, from these inputs with this identity."""
        hashes = _hashes(inputs, identity)
        entry = self.stages().get(name, {})
        return {key: entry.get(key) for key in hashes} == hashes

    def leave(self) -> None:
        """Let another process work in the folder."""
        release(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()

    def wall_seconds(self) -> float:
        """Return the seconds that the finished stages took, over all the times the run was started."""
        return sum(float(entry.get("seconds", 0)) for entry in self.stages().values())

    def _read(self) -> dict[str, Any]:
        if not self._manifest.is_file():
            return {}
        try:
            manifest = json.loads(self._manifest.read_text(encoding="utf-8"))
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise DataError(f"{self._manifest}: not a run's manifest; move it away to start the run anew")
        return manifest

    def _restore(self, stages: Mapping[str, object]) -> None:
        """Write the manifest with these stages; without any it goes, and the folder with it if it is empty."""
        if stages:
            self._write(stages)
        else:
            self._manifest.unlink()
            with suppress(OSError):  # the folder holds something else
                self.path.rmdir()

    def _write(self, stages: Mapping[str, object]) -> None:
        write_json(self._manifest, {"schema": SCHEMA, "stages": stages})


def newest_model(config: Config, run: RunFolder) -> ModelVersion:
    """Return the newest model of a run; the last good one, if the run ended because the newest has drifted."""
    indices = sorted(
        int(folder.name[2:])
        for folder in run.path.glob("M_*")
        if folder.name[2:].isdigit() and (folder / "config.json").is_file()
    )
    if not indices:
        return ModelVersion(0 if config.init else 1, config.model)
    summary = run.path / "summary.json"
    outcome = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    drifted = f"M_{indices[-1]}" in outcome.get("drifted", {}) and config.watch.then != "warn"
    newest = int(outcome["last_good"][2:]) if drifted else indices[-1]
    return run.model(newest) if newest in indices else ModelVersion(newest, config.model)


def _move_changed_folders(hashes: Mapping[str, str], outputs: Mapping[str, Path]) -> None:
    """Move each folder aside that is not the one that was made: a file can be continued, a model cannot."""
    for key, path in outputs.items():
        if key in hashes and path.is_dir() and hash_path(path) != hashes[key]:
            warn([f"{path} is not as it was made: it is made again, and this one is kept as {_stale(path).name}"])
            move_aside(path)


def _hashes(inputs: Mapping[str, Path], identity: object) -> dict[str, object]:
    hashes = {key: hash_path(path) for key, path in inputs.items()}
    return {"settings": hash_data(identity), "inputs": hashes}


def move_aside(path: Path) -> bool:
    """Rename a file or folder, if it exists, to NAME.stale; an older one of that name goes. Returns whether it did."""
    if not path.exists():
        return False
    stale = _stale(path)
    if stale.is_dir():
        shutil.rmtree(stale)
    path.replace(stale)
    return True


def _stale(path: Path) -> Path:
    return path.with_name(path.name + ".stale")
