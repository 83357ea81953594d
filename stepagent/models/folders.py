"""Check a model folder's files before anything is loaded, and tell which of them make the model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from stepagent.errors import ModelError
from stepagent.files.runs import hash_file, move_aside

WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")
TEXT = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "spiece.model")
TEMPLATES = ("chat_template*",)
_MERGE = "merge it into its base (stepagent merge) and give the folder of the merged model"
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

_PACKED_FILES = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}


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
            raise ModelError(f"{model}: an adapter, not a model; {_MERGE}")
        if any(path.glob("*.gguf")):
            raise ModelError(f"{model}: GGUF weights; give the Transformers folder of this model (*.safetensors)")
        raise ModelError(f"{model}: not a model folder (config.json is missing); give the folder that holds it")
    for file in _matching(path, ("*.json", *WEIGHTS, *TEXT, *TEMPLATES)):
        with file.open("rb") as stream:
            if stream.read(len(_LFS)) == _LFS:
                raise ModelError(f"{file}: a Git LFS pointer, not the file; run git lfs pull in the folder")
    config = read_config(path)
    if not isinstance(config.get("quantization_config", {}), dict | None):
        _refuse_packed(model, path, config)  # no reader gets further
    if (path / "generation_config.json").is_file():
        read_json(path / "generation_config.json")


def unless_made(folder: Path, work: Callable[[], object]) -> None:
    """Do `work`, which makes a model's `folder`, unless it is there and whole: it gets its name when it is, and a run
    may have been killed right then, before its manifest said so. One that a lost disk cut off is moved aside."""
    if (folder / "config.json").is_file():
        if holds_whole_weights(folder):
            return
        move_aside(folder)
    work()


def holds_whole_weights(folder: Path) -> bool:
    """Return whether no weight file in a folder, or below it, was cut off."""
    packed = [path for path in folder.rglob("*") if path.suffix in (".pt", ".pth")]
    return all(map(zipfile.is_zipfile, packed)) and all(map(_is_whole, folder.rglob("*.safetensors")))


def _is_whole(file: Path) -> bool:
    """Return whether a safetensors file is as long as its head says."""
    with file.open("rb") as content:
        size, length = file.stat().st_size, int.from_bytes(content.read(8), "little")
        try:
            head = json.loads(content.read(min(length, size)))
            ends = [entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
    return bool(8 + length + max(ends, default=0) == size)


def check_weights(model: str | Path, *, causal: bool = True) -> None:
    """Raise ModelError for a local folder whose weights cannot be those of a full-precision model, by default of a
    causal language model."""
    path = Path(model)
    if not path.is_dir():
        return
    has_weights = any(_matching(path, WEIGHTS[:2], "adapter_"))
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            f"{model}: an adapter lies beside the weights and would be applied to them once more; move "
            "adapter_config.json and adapter_model.safetensors away"
            if has_weights
            else f"{model}: an adapter, not a model; {_MERGE}"
        )
    config = read_config(path)
    if causal:
        _refuse_readers(model, config)
    _refuse_packed(model, path, config)
    if not has_weights and not any(_matching(path, WEIGHTS)):
        kind = "only GGUF weights" if any(path.glob("*.gguf")) else "no weights"
        raise ModelError(f"{model}: {kind} in the folder; download it again, with *.safetensors")
    for index in path.glob("*.index.json"):
        for name in sorted(set(read_json(index).get("weight_map", {}).values())):
            if not (path / name).is_file():
                raise ModelError(f"{path / name}: missing, though {index.name} names it; download it again")


def _refuse_readers(model: str | Path, config: Mapping[str, Any]) -> None:
    for kind in config.get("architectures") or ():
        for ending, name in _READERS.items():
            if str(kind).endswith(ending):
                raise ModelError(f"{model}: {name} ({kind}), no causal language model; use it as judge.backend prm")


def _refuse_packed(model: str | Path, folder: Path, config: Mapping[str, Any]) -> None:
    if method := _packing(folder, config):
        raise ModelError(
            f"{model}: {method} weights (quantization_config), which are packed; give the model in bfloat16 or "
            "float32, or serve this one and search with backend openai"
        )


def _packing(folder: Path, config: Mapping[str, Any]) -> str:
    """Return the name of the packing of quantised weights, or "" for plain ones."""
    packing = config.get("quantization_config")
    if isinstance(packing, dict) and packing:
        method = str(packing.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in packing else "quantised"))
        return _PACKED.get(method, method)
    if packing:
        return str(packing)
    return next((name for file, name in _PACKED_FILES.items() if (folder / file).is_file()), "")


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's config.json. Raises ModelError if it is no JSON object."""
    return read_json(folder / "config.json")


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


def _matching(folder: Path, patterns: tuple[str, ...], without: str = "/") -> Iterator[Path]:
    """Return the files that match a pattern, but for those whose names begin with `without`."""
    files = (file for pattern in patterns for file in folder.glob(pattern) if file.is_file())
    return (file for file in files if not file.name.startswith(without))


def read_json(file: Path) -> dict[str, Any]:
    """Return a JSON object. Raises ModelError if the file holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: no JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file}: no JSON object; download it again")
    return content
