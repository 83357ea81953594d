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
    """ "auto" is this process' CUDA device, else the CPU."""
    if device == "auto":
        local = os.environ.get("LOCAL_RANK", "0")
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on CUDA and float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    named = getattr(torch, dtype, None)
    if not isinstance(named, torch.dtype):
        raise ModelError(f"unknown dtype '{dtype}'; use auto, float32 or bfloat16")
    return named


def load_model(model: str | Path, dtype: torch.dtype, device: torch.device, **options: Any) -> Any:
    """A causal language model; `options` go to Transformers. Raises ModelError if the folder holds none."""
    check_folder(model)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{model}: cannot load the model ({first_line(error)})") from None
    return loaded if options else loaded.to(device)  # what is quantised stands where it was loaded


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A full disk or the like, while weights are written, becomes a ModelError."""
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


def attention_mask(model: Any, allowed: torch.Tensor) -> torch.Tensor:
    """A [.., queries, keys] mask of what may be attended to, in the form the model's attention takes:
    SDPA applies a boolean mask, eager attention would add it to its scores."""
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        return allowed
    dtype = next(model.parameters()).dtype
    blocked = torch.finfo(dtype).min
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, blocked)


def check_folder(model: str | Path) -> None:
    path = Path(model)
    looks_local = path.is_absolute() or str(model).startswith(".") or len(path.parts) > 2
    if looks_local and not path.is_dir():
        raise ModelError(f"{model}: no such model folder")
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise ModelError(f"{model}: an adapter, not a model; give the folder of the merged model")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{model}: not a model folder (config.json is missing)")


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
