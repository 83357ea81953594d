"""Rehearse the end of a training before its first step: write a changed model, read it back, compare.

A merge that fails after hours of training is found in seconds. The rehearsal takes a shallow model of random weights,
with every kind of layer that the real one has, through the same functions.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from stepagent.errors import ModelError
from stepagent.files.runs import hash_data
from stepagent.models.folders import local_files
from stepagent.models.loading import first_line
from stepagent.models.saving import copy_files, save_weights
from stepagent.training.adapters import load_trainable
from stepagent.training.merge import TrainedModel, gather_weights, write_trained

_CPU = torch.device("cpu")
_rehearsed: set[str] = set()  # architectures and settings that this process need not try again


def rehearse(trained: TrainedModel, out: Path, *, probes: Sequence[Sequence[int]]) -> None:
    """Write a shallow copy of a model that is about to be trained as `save_merged` will write the real one, in a folder
    beside `out` that goes away. `probes` are token ids. Raises ModelError if that fails."""
    config, settings = trained.model.config, trained.settings
    lora = settings.lora.model_copy(update={"quantize": None}) if settings.lora else None
    settings = settings.model_copy(update={"lora": lora, "dtype": "float32"})
    key = hash_data([config.to_json_string(), lora and lora.model_dump(), settings.serving_dtype])
    if key in _rehearsed:
        return
    folder = out.with_name(out.name + ".rehearsal")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        base = folder / "base"
        _write_shallow(config, trained.base, base)
        model = load_trainable(base, settings, _CPU)
        if lora:
            _fill(model)
        copy = TrainedModel(model, trained.tokenizer, base, settings)
        write_trained(copy, gather_weights(model, keep=True), folder / "merged", probes=probes)
    except Exception as error:
        reason = first_line(error).replace(f"{folder}/", "")
        raise ModelError(f"{trained.base}: its training could not be written down, so none begins: {reason}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _rehearsed.add(key)


@torch.no_grad()
def _fill(model: Any) -> None:
    """Give a fresh adapter, which changes nothing yet, small random weights."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.02 * torch.randn_like(parameter)


def _write_shallow(config: Any, base: str | Path, folder: Path) -> None:
    """Write a model with the first layers of this config and random weights, and the base's other files."""
    model = AutoModelForCausalLM.from_config(shallow(config), dtype=torch.float32)
    save_weights(model, folder)
    if files := local_files(base):
        copy_files(files, folder)


def shallow(config: Any) -> Any:
    """Return a copy of a config with as few layers as hold every kind that it has, at least two."""
    config = deepcopy(config)
    config.quantization_config = None
    text = config.get_text_config(decoder=True)
    layers = getattr(text, "num_hidden_layers", None)
    if not isinstance(layers, int):
        return config
    fewer = max(2, *(_depth(value) for value in vars(text).values() if _is_per_layer(value, layers)), _dense(text) + 1)
    if fewer >= layers:
        return config
    for name, value in list(vars(text).items()):
        if _is_per_layer(value, layers):
            setattr(text, name, value[:fewer])
    text.num_hidden_layers = fewer
    return config


def _is_per_layer(value: object, layers: int) -> bool:
    return isinstance(value, list) and len(value) == layers


def _depth(kinds: Sequence[object]) -> int:
    """Return how many of the first entries hold every kind of entry."""
    return max(kinds.index(kind) + 1 for kind in kinds)


def _dense(text: Any) -> int:
    """Return the number of the first layers that have no experts."""
    count = getattr(text, "first_k_dense_replace", 0)
    return count if isinstance(count, int) else 0
