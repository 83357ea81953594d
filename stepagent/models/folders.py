"""Check a model folder's files before anything is loaded, and tell which of them make the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from stepagent.errors import ModelError
from stepagent.files.runs import hash_file

WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")
TEXT = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "spiece.model")
TEMPLATES = ("chat_template*",)
_LFS = b"version https://git-lfs"
_READERS = {"SequenceClassification": "a reward model or classifier", "TokenClassification": "a step classifier"}
_PACKED = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
    "mxfp4": "MXFP4",
}


def check_folder(model: str | Path) -> None:
    """Raise ModelError for a local path that is no whole model folder; a hub id passes."""
    path = Path(model)
    looks_local = path.is_absolute() or str(model).startswith(".") or len(path.parts) > 2
    if path.is_file():
        raise ModelError(f"{model}: a file; give the folder of a Transformers model (config.json and *.safetensors)")
    if looks_local and not path.is_dir():
        raise ModelError(f"{model}: no such model folder; give a folder, or a hub id such as org/name")
    if not path.is_dir():
        return
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise ModelError(f"{model}: an adapter, not a model; give the folder of the merged model")
        if any(path.glob("*.gguf")):
            raise ModelError(f"{model}: GGUF weights; give the Transformers folder of this model (*.safetensors)")
        raise ModelError(f"{model}: not a model folder (config.json is missing); give the folder that holds it")
    for file in (*_matching(path, WEIGHTS), *_matching(path, TEXT), *_matching(path, TEMPLATES)):
        with file.open("rb") as stream:
            if stream.read(len(_LFS)) == _LFS:
                raise ModelError(f"{file}: a Git LFS pointer, not the file; run git lfs pull in the folder")


def check_weights(model: str | Path) -> None:
    """Raise ModelError for a local folder whose weights cannot be those of a full-precision causal language model."""
    path = Path(model)
    if not path.is_dir():
        return
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            f"{model}: an adapter lies beside the weights and would be applied to them once more; move "
            "adapter_config.json and adapter_model.safetensors away"
        )
    config = read_config(path)
    for kind in config.get("architectures") or ():
        for ending, name in _READERS.items():
            if str(kind).endswith(ending):
                raise ModelError(f"{model}: {name} ({kind}), no causal language model; use it as judge.backend prm")
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        raise ModelError(
            f"{model}: {_PACKED.get(method, method)} weights (quantization_config in config.json); give the model in "
            "bfloat16 or float32, or serve this one and search with backend openai"
        )
    if not any(_matching(path, WEIGHTS)):
        raise ModelError(f"{model}: no weights in the folder (*.safetensors or *.bin); download it again")
    for index in path.glob("*.index.json"):
        for name in sorted(set(_read_json(index).get("weight_map", {}).values())):
            if not (path / name).is_file():
                raise ModelError(f"{path / name}: missing, though {index.name} names it; download it again")


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's config.json. Raises ModelError if it is no JSON object."""
    return _read_json(folder / "config.json")


def local_files(model: str | Path) -> Path | None:
    """Return the folder of a model, that of its download for a hub id, or None if there is none."""
    if Path(model).is_dir():
        return Path(model)
    config = try_to_load_from_cache(str(model), "config.json")
    return Path(config).parent if isinstance(config, str) else None


def model_identity(model: str | Path) -> list[str]:
    """Return the names and hashes of the files that make a model what it is: config, weights, tokenizer and template.
    Notes, licences and generation defaults are not among them. For a hub id, its name."""
    folder = Path(model)
    if not folder.is_dir():
        return [str(model)]
    files = sorted({folder / "config.json", *_matching(folder, (*WEIGHTS, *TEXT, *TEMPLATES))})
    return [f"{file.name} {hash_file(file)}" for file in files if file.is_file()]


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    return (file for pattern in patterns for file in folder.glob(pattern) if file.is_file())


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: no JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file}: no JSON object; download it again")
    return content
