"""Loading a tokenizer or a model from a folder or a hub id, with one clear sentence where that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from stepagent.errors import ModelError

logging.disable_progress_bar()  # our own bars say what is going on


def pick_device(device: str = "auto") -> torch.device:
    """Return a device by name; "auto" is this process' CUDA device, else the CPU."""
    if device == "auto":
        local = os.environ.get("LOCAL_RANK", "0")
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return a precision by name; "auto" is bfloat16 on CUDA and float32 elsewhere. Raises ModelError."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    precision = getattr(torch, dtype, None)
    if not isinstance(precision, torch.dtype):
        raise ModelError(f"unknown dtype '{dtype}'; use auto, float32 or bfloat16")
    return precision


def load_model(model: str | Path, dtype: torch.dtype, device: torch.device, **options: Any) -> Any:
    """Return a causal language model; `options` go to Transformers. Raises ModelError if the folder holds none."""
    check_folder(model)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{model}: cannot load the model ({first_line(error)})") from None
    return loaded if options else loaded.to(device)  # what is quantised stands where it was loaded


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Return a full disk or the like, while weights are written, becomes a ModelError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise  # not what torch.save says of a full disk
        raise ModelError(
            f"{folder}: cannot be written ({first_line(error)}); free some space and start again: what was "
            "whole before is kept"
        ) from None


def position_limit(config: Any) -> int:
    """How many tokens the model has positions for."""
    return int(getattr(config, "max_position_embeddings", None) or 1 << 20)


def context_window(config: Any) -> int:
    """How many tokens the model may see at once; a sliding window counts, since our masks do not slide."""
    limit = position_limit(config)
    layers = getattr(config, "layer_types", None) or ("sliding_attention",)
    if "sliding_attention" in layers and getattr(config, "sliding_window", None):
        limit = min(limit, int(config.sliding_window))
    return limit


def attention_mask(model: Any, visible: torch.Tensor) -> torch.Tensor:
    """Return a [.., queries, keys] mask of what may be attended to, in the form the model's attention takes: SDPA
    applies a boolean mask, eager attention would add it to its scores."""
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        return visible
    dtype = next(model.parameters()).dtype
    blocked = torch.finfo(dtype).min
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, blocked)


def check_folder(model: str | Path) -> None:
    """Raise ModelError for a local path that is no model folder; a hub id passes."""
    path = Path(model)
    looks_local = path.is_absolute() or str(model).startswith(".") or len(path.parts) > 2
    if looks_local and not path.is_dir():
        raise ModelError(f"{model}: no such model folder")
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise ModelError(f"{model}: an adapter, not a model; give the folder of the merged model")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{model}: not a model folder (config.json is missing)")


def first_line(error: Exception) -> str:
    """Return the first line of an error, of at most 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
