"""The run folder: stages are files, and a manifest of content hashes says which are done.

runs/<name>/
  manifest.json        stage -> hashes of its settings, inputs and outputs
  config.yaml          the settings as they were resolved
  sft.jsonl            IFT and EFT as rendered for SFT
  M_1/                 a model folder, as every M_i
  round_1/             problems.jsonl trees.jsonl preferences.jsonl search.json optimize.json
  evaluation/M1/       trees.jsonl metrics.json
  summary.json summary.png
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from stepagent.files.jsonl import write_atomic


def hash_file(path: Path) -> str:
    """sha256 of a file's content, as hex."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_path(path: Path) -> str:
    """sha256 of a file, or of a folder's relative names and contents; the name itself (a hub id, say) if
    there is neither."""
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
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest = path / "manifest.json"
        self._mark = time.monotonic()

    def model(self, index: int) -> Path:
        """The folder of M_index."""
        return self.path / f"M_{index}"

    def round(self, index: int) -> Path:
        """The folder of round `index` (from 1), which turns M_index into M_{index+1}."""
        return self.path / f"round_{index}"

    def manifest(self) -> dict[str, Any]:
        if not self._manifest.is_file():
            return {}
        loaded: dict[str, Any] = json.loads(self._manifest.read_text(encoding="utf-8"))
        return loaded

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Path],
        outputs: Mapping[str, Path],
        settings: object,
        work: Callable[[], object],
    ) -> bool:
        """Run `work` unless the manifest says that this stage already made these outputs from these
        inputs with these settings. Returns whether it ran.

        What a killed run left of the same stage is kept for `work` to continue from. Outputs of other
        settings or inputs are moved aside first, to NAME.stale.
        """
        want = _wanted(inputs, settings)
        entry = self.manifest().get(name, {})
        same = {key: entry.get(key) for key in want} == want
        if same and entry.get("outputs") == {key: hash_path(path) for key, path in outputs.items()}:
            return False
        if not same:
            for path in outputs.values():
                move_aside(path)
            self._write(name, want)
        work()
        entry = {
            **want,
            "outputs": {key: hash_path(path) for key, path in outputs.items()},
            "seconds": round(time.monotonic() - self._mark, 3),
        }
        self._mark = time.monotonic()
        self._write(name, entry)
        return True

    def begun(self, name: str, inputs: Mapping[str, Path], settings: object) -> bool:
        """Whether this stage was begun, at least, from these inputs with these settings."""
        want = _wanted(inputs, settings)
        entry = self.manifest().get(name, {})
        return {key: entry.get(key) for key in want} == want

    def wall_seconds(self) -> float:
        """What the finished stages took, over all the times the run was started."""
        return sum(float(entry.get("seconds", 0)) for entry in self.manifest().values())

    def _write(self, stage: str, entry: Mapping[str, object]) -> None:
        manifest = {**self.manifest(), stage: entry}
        write_atomic(self._manifest, json.dumps(manifest, indent=2) + "\n")


def unless_made(folder: Path, work: Callable[[], object]) -> None:
    """Do `work`, which makes `folder`, unless it is there: a model's folder gets its name when it is whole,
    and a run may have been killed right then, before its manifest said so."""
    if not (folder / "config.json").is_file():
        work()


def _wanted(inputs: Mapping[str, Path], settings: object) -> dict[str, object]:
    hashes = {key: hash_path(path) for key, path in inputs.items()}
    return {"settings": hash_data(settings), "inputs": hashes}


def move_aside(path: Path) -> None:
    """Rename what is there to NAME.stale; an older one of that name goes."""
    if path.exists():
        stale = path.with_name(path.name + ".stale")
        if stale.is_dir():
            shutil.rmtree(stale)
        path.replace(stale)
