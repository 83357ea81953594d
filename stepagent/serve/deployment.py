"""What a server serves, as files: the deployment, and the probes it is proven with again after a restart."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from stepagent.errors import ModelError
from stepagent.files.jsonl import read_rows, write_atomic, write_rows
from stepagent.files.runs import hash_file, hash_path
from stepagent.serve.proof import Probe, Proof

Method = Literal["reload", "adapter", "restart", "found"]
_SAME = ("architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A proven, running copy of M_`round`. `model` is its folder or hub id, `method` how it came to the
    server: reload (in place), adapter (hot-loaded), restart, or found (it was served already)."""

    name: str
    sha256: str
    round: int
    method: Method
    model: str
    proof: Proof


class Record:
    """`folder`/deployment.json and probes.jsonl: always the deployment that was proven last."""

    def __init__(self, folder: Path) -> None:
        self._deployment = folder / "deployment.json"
        self._probes = folder / "probes.jsonl"

    def current(self) -> Deployment | None:
        """The deployment that was proven last."""
        try:
            return TypeAdapter(Deployment).validate_json(self._deployment.read_bytes())
        except (OSError, ValidationError):
            return None

    def probes(self) -> list[Probe]:
        """What that deployment was proven with."""
        return read_rows(self._probes, Probe) if self._probes.is_file() else []

    def write(self, deployment: Deployment, probes: list[Probe]) -> None:
        """Keep a deployment that was just proven with `probes`."""
        write_rows(self._probes, probes)
        text = TypeAdapter(Deployment).dump_json(deployment, indent=2).decode()
        write_atomic(self._deployment, text + "\n")


def served_folder(model: str | Path) -> Path:
    """Where the weights lie that are served for a model: its copy in serving precision, if it has one."""
    copy = Path(model) / "serving"
    return copy if copy.is_dir() else Path(model)


def weights_sha256(model: str | Path) -> str:
    """sha256 over the weight files that are served for `model`; of a hub id, over its name."""
    folder = served_folder(model)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return sha256(hash_path(folder).encode()).hexdigest()
    return sha256("\n".join(f"{file.name} {hash_file(file)}" for file in files).encode()).hexdigest()


def check_weights(model: str | Path, like: str | Path | None) -> None:
    """Raise ModelError if a server could not load the weights of `model` in place of those of `like`: a
    reload that fails halfway ends vLLM's engine (0.32), so it is found out before."""
    folder = served_folder(model)
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    shapes = _shapes(folder)
    if like is None or not Path(like).is_dir():
        return
    before = served_folder(like)
    config, config_before = _config(folder), _config(before)
    for key in _SAME:
        if config.get(key) != config_before.get(key):
            raise ModelError(
                f"{folder}/config.json: {key} is {config.get(key)}, but the served model's is "
                f"{config_before.get(key)}; only a model of the same shape can take its place"
            )
    for name, shape in _shapes(before).items():
        if shapes.get(name, shape) != shape:
            raise ModelError(f"{folder}: {name} has shape {shapes[name]} instead of {shape}")


def _config(folder: Path) -> dict[str, Any]:
    try:
        return TypeAdapter(dict[str, Any]).validate_json((folder / "config.json").read_bytes())
    except (OSError, ValidationError):
        raise ModelError(f"{folder}: not a model folder (config.json is missing or broken)") from None


def _shapes(folder: Path) -> dict[str, list[int]]:
    from safetensors import SafetensorError, safe_open

    shapes = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no weights (*.safetensors)")
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                shapes.update({name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: not whole ({str(error)[:150]}); copy or make it again") from None
    return shapes
