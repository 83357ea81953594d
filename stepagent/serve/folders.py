"""Read a model's folder for a server: the weights to serve, their hash and shapes, the adapter's base."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stepagent.errors import ModelError, ServeError
from stepagent.files.runs import hash_file, hash_path

_SHAPE_KEYS = ("architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")


def served_folder(model: str | Path) -> Path:
    """Return the folder of the weights to serve: the model's copy in serving precision, if it has one."""
    copy = Path(model) / "serving"
    return copy if copy.is_dir() else Path(model)


def served_weights(model: str) -> str | Path:
    """Return the folder of the weights to serve, or a hub id as it is."""
    folder = served_folder(model)
    return folder if folder.is_dir() else model


def local_folder(model: str) -> Path:
    """Return the folder of the weights to serve, for a hub id that of its download. Raises ServeError if
    there is none."""
    folder = served_folder(model)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError):
        raise ServeError(
            f"{model}: not a folder and not downloaded, so it cannot be reloaded; run hf download {model}"
        ) from None


def adapter_base(model: str) -> Path | None:
    """Return the base that the adapter in a model's folder was trained on, or None if it has no adapter."""
    try:
        text = (Path(model) / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
        return Path(json.loads(text)["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def weights_sha256(model: str | Path) -> str:
    """Return the sha256 over the weight files that are served for `model`; for a hub id, over its name."""
    folder = served_folder(model)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return sha256(hash_path(folder).encode()).hexdigest()
    return sha256("\n".join(f"{file.name} {hash_file(file)}" for file in files).encode()).hexdigest()


def check_weights(model: str | Path, like: str | Path | None) -> None:
    """Raise ModelError if a server could not load the weights of `model` in place of those of `like`. This is
    checked beforehand because a reload that fails halfway ends vLLM's engine (0.32)."""
    folder = served_folder(model)
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder; check the path")
    shapes = _shapes(folder)
    if like is None or not Path(like).is_dir():
        return
    like_folder = served_folder(like)
    config, like_config = _config(folder), _config(like_folder)
    for key in _SHAPE_KEYS:
        if config.get(key) != like_config.get(key):
            raise ModelError(
                f"{folder}/config.json: {key} is {config.get(key)}, but the served model's is "
                f"{like_config.get(key)}; only a model of the same shape can take its place"
            )
    for name, shape in _shapes(like_folder).items():
        if shapes.get(name, shape) != shape:
            raise ModelError(
                f"{folder}: {name} has shape {shapes[name]} instead of {shape}; only a model of the same "
                "shape can take the served model's place"
            )


def _config(folder: Path) -> dict[str, Any]:
    """Return config.json. Raises ModelError."""
    try:
        return TypeAdapter(dict[str, Any]).validate_json((folder / "config.json").read_bytes())
    except (OSError, ValidationError):
        raise ModelError(
            f"{folder}: not a model folder (config.json is missing or broken); copy or make it again"
        ) from None


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shape of each weight by name. Raises ModelError for missing or broken files."""
    from safetensors import SafetensorError, safe_open

    shapes = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        kind = "only GGUF weights" if any(folder.glob("*.gguf")) else "no weights"
        raise ModelError(f"{folder}: {kind} in the folder; download it again, or write it, with *.safetensors")
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                shapes.update({name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: not whole ({str(error)[:150]}); copy or make it again") from None
    return shapes
