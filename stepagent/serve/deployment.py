"""The record of a server's deployment: the model that was proven last, and the probes to prove it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from stepagent.errors import DataError
from stepagent.files.jsonl import drop_torn_line, dump_row, read_rows, write_json, write_rows
from stepagent.serve.proof import Probe, Proof
from stepagent.types import ModelVersion

Method = Literal["reload", "adapter", "restart", "found"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A proven, running copy of the model `version`, served as `name`.

    `sha256` is over its weights. `method` is the way it came to the server:
    reload (in place), adapter (hot-loaded), restart, or found (it was served already).
    """

    name: str
    sha256: str
    version: ModelVersion
    method: Method
    proof: Proof


class Record:
    """The files in `folder`: deployment.json and probes.jsonl of the deployment that was proven last, and a line for
    every one before it, too, in deployments.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._deployment = folder / "deployment.json"
        self._probes = folder / "probes.jsonl"
        self._history = folder / "deployments.jsonl"

    def current(self) -> Deployment | None:
        """Return the deployment that was proven last, or None without a readable record."""
        try:
            return TypeAdapter(Deployment).validate_json(self._deployment.read_bytes())
        except (OSError, ValidationError):
            return None

    def probes(self) -> list[Probe]:
        """Return the probes with which that deployment was proven; none, which prove nothing, without a readable file:
        then the model is put on the server again."""
        try:
            return read_rows(self._probes, Probe)
        except DataError:
            return []

    def write(self, deployment: Deployment, probes: list[Probe]) -> None:
        """Keep a deployment that was just proven with `probes`."""
        write_rows(self._probes, probes)
        write_json(self._deployment, deployment)
        drop_torn_line(self._history)
        with self._history.open("a", encoding="utf-8") as file:
            file.write(dump_row(deployment))
