"""Write a changed model as a folder like the one it came from: the same tensors, the same files beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from stepagent.models.folders import local_files, read_config
from stepagent.models.loading import writing
from stepagent.models.tokenizer import ChatTokenizer

_SHARD = "5GB"  # the largest weight file
_UNTOUCHED = "model-untouched.safetensors"
# Weights in other forms, and what describes the base and not its offspring.
_LEFT = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".pickle"}
_OWN = {"README.md", "config.json"}


def save_model(
    model: Any,
    base: str | Path,
    folder: Path,
    *,
    tokenizer: ChatTokenizer,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write `model`, which was made from `base`, to `folder`: its weights (or `weights`, by the names of its
    parameters and buffers), the tensors of the base that Transformers does not load, and the base's other files as
    they are. config.json is the base's own but for the precision.

    Raises ModelError if the disk cannot take it.
    """
    save_weights(model, folder, weights)
    files = local_files(base)
    if files is None:
        tokenizer.save(folder)
        return
    with writing(folder):
        _copy_untouched(files, folder)
    complete_folder(files, folder, model.dtype, tokenizer=tokenizer)


def complete_folder(files: Path, folder: Path, precision: torch.dtype, *, tokenizer: ChatTokenizer) -> None:
    """Give a folder that has weights in this precision all that lies beside the weights in the folder `files`.
    config.json is that folder's own but for the precision."""
    with writing(folder):
        copy_files(files, folder)
    if not any(folder.glob("tokenizer*")):
        tokenizer.save(folder)
    dtype = str(precision).removeprefix("torch.")
    config = {**_in_precision(read_config(files), dtype), "dtype": dtype}
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tensor_names(folder: Path) -> dict[str, Path]:
    """Return the names of all tensors in a folder's weight files, each with its file."""
    names: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        if not file.name.startswith(("adapter_", "consolidated")):
            with safe_open(file, framework="pt") as tensors_file:
                names.update(dict.fromkeys(tensors_file.keys(), file))
    if not names:
        for file in sorted(folder.glob("pytorch_model*.bin")):
            names.update(dict.fromkeys(torch.load(file, map_location="cpu", weights_only=True, mmap=True), file))
    return names


def save_weights(model: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a model's weights, or `weights` in their place, and its config. Raises ModelError if the disk cannot."""
    # Defaults of generation that Transformers finds contradictory would stop the writing.
    defaults, model.generation_config = model.generation_config, GenerationConfig()
    try:
        with writing(folder):
            model.save_pretrained(folder, state_dict=dict(weights) if weights else None, max_shard_size=_SHARD)
    finally:
        model.generation_config = defaults
    (folder / "generation_config.json").unlink(missing_ok=True)


def copy_files(files: Path, folder: Path) -> None:
    """Copy what lies beside the weights: tokenizer, template, generation defaults, licence, code of its own."""
    for file in _beside(files):
        shutil.copyfile(file, folder / file.name)


def _beside(files: Path) -> Iterator[Path]:
    for file in sorted(files.iterdir()):
        index = file.name.endswith(".index.json")
        if file.is_file() and file.suffix not in _LEFT and not index and file.name not in _OWN:
            yield file


def _copy_untouched(files: Path, folder: Path) -> None:
    """Give the tensors the names that the base's have, and copy those of the base that its model does not load, such as
    layers for speculative decoding: servers read them."""
    base_tensors, new_tensors = tensor_names(files), tensor_names(folder)
    if not base_tensors:
        return
    if renamed := _names_of_base(base_tensors, new_tensors):
        _rename_tensors(folder, renamed)
        new_tensors = tensor_names(folder)
    names = [name for name in base_tensors if name not in new_tensors]
    if not names:
        return
    tensors = {}
    for name in names:
        if base_tensors[name].suffix == ".bin":
            tensors[name] = torch.load(base_tensors[name], map_location="cpu", weights_only=True, mmap=True)[
                name
            ].clone()
        else:
            with safe_open(base_tensors[name], framework="pt") as tensors_file:
                tensors[name] = tensors_file.get_tensor(name)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / _UNTOUCHED, {"format": "pt"})
    _add_to_index(folder, new_tensors, names)


def _add_to_index(folder: Path, tensors: Mapping[str, Path], untouched: list[str]) -> None:
    """Name every file in the index, without which readers look for one file alone."""
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text()) if index.is_file() else {"metadata": {}}
    content["weight_map"] = {name: path.name for name, path in tensors.items()} | dict.fromkeys(untouched, _UNTOUCHED)
    single = folder / "model.safetensors"
    if single.is_file():  # one file is read before an index is looked for
        first = single.rename(folder / "model-00001-of-00001.safetensors")
        content["weight_map"] |= {name: first.name for name, path in tensors.items() if path == single}
    index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _names_of_base(base: Mapping[str, Path], tensors: Mapping[str, Path]) -> dict[str, str]:
    """Return the names of the base for the tensors to whose names Transformers gave a prefix, or took one from."""
    names = {}
    for name in base.keys() - tensors.keys():
        for tensor in tensors.keys() - base.keys():
            if tensor.endswith(f".{name}") or name.endswith(f".{tensor}"):
                names[tensor] = name
    return names


def _rename_tensors(folder: Path, names: Mapping[str, str]) -> None:
    """Write the weight files anew with other names, and the index, too."""
    for file in sorted(folder.glob("*.safetensors")):
        tensors = {names.get(name, name): tensor for name, tensor in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        content = json.loads(index.read_text())
        content["weight_map"] = {names.get(name, name): file for name, file in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _in_precision(config: Any, dtype: str) -> Any:
    """Return a config with this precision wherever it states one."""
    changed = {
        key: _in_precision(value, dtype) if isinstance(value, dict) and key.endswith("_config") else value
        for key, value in config.items()
        if key not in ("torch_dtype", "dtype")
    }
    stated = {"dtype": dtype} if "dtype" in config or "torch_dtype" in config else {}
    return {**changed, **stated}
