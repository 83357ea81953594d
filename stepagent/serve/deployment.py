"""The record of a server's deployment: the model that was proven last, and the probes to prove it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from stepagent.errors import DataError
from stepagent.files.jsonl import read_rows, write_json, write_rows
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
    """The files deployment.json and probes.jsonl in `folder`: the deployment that was proven last."""

    def __init__(self, folder: Path) -> None:
        self._deployment = folder / "deployment.json"
        self._probes = folder / "probes.jsonl"

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
