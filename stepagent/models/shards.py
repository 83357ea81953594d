"""Writing a model's weights tensor by tensor, so that one file of them is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from stepagent.errors import ParityError
from stepagent.models.file_weights import holds
from stepagent.models.loading import writing

_SHARD = "1GB"  # the largest weight file, unless one tensor is larger: it is in memory until it is written


def write_shards(folder: Path, blanks: Mapping[str, torch.Tensor], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write `tensors`, which come one by one, to the weight files of `folder`, and read each file back. `blanks` are
    the same tensors in the same order, without data. Raises ModelError if the disk cannot take them, and ParityError
    for a file that is not what was written."""
    split = split_torch_state_dict_into_shards(dict(blanks), max_shard_size=_SHARD)
    file_of = {name: file for file, names in split.filename_to_tensors.items() for name in names}
    pending: dict[str, dict[str, torch.Tensor]] = {file: {} for file in split.filename_to_tensors}
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensor in tensors:
        file = file_of[name]
        pending[file][name] = tensor.contiguous()
        if len(pending[file]) == len(split.filename_to_tensors[file]):
            _write(folder / file, pending.pop(file))
    assert not pending, f"{folder}: {sorted(pending)} lack tensors"
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": file_of}
        with writing(folder):
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    with writing(file.parent):
        save_file(tensors, file, {"format": "pt"})
    for name, tensor in tensors.items():
        if not holds(file, name, tensor):
            raise ParityError(f"{file}: {name} was not written as it is; check the disk, and start again")
