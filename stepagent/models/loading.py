"""Loading a tokenizer or a model from a folder or a hub id, with one clear sentence where that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from stepagent.errors import ModelError
from stepagent.models.folders import check_folder, check_weights

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


def load_model(
    model: str | Path, dtype: torch.dtype, device: torch.device, *, kind: Any = AutoModelForCausalLM, **options: Any
) -> Any:
    """Return a model, by default a causal language model; `options` go to Transformers. Raises ModelError, with the
    cause and a remedy, for a folder that does not hold all its weights: Transformers would draw them at random."""
    check_folder(model)
    if kind is AutoModelForCausalLM:
        check_weights(model)
    try:
        loaded, report = kind.from_pretrained(
            str(model), dtype=dtype, output_loading_info=True, trust_remote_code=False, **options
        )
    except torch.OutOfMemoryError:
        raise ModelError(f"{model}: out of memory at loading; use a smaller model or another device") from None
    except Exception as error:  # noqa: BLE001 (whatever Transformers and its readers raise)
        raise ModelError(f"{model}: cannot load the model ({first_line(error)}){_remedy(error)}") from None
    if missing := sorted(report["missing_keys"]):
        unexpected = sorted(report["unexpected_keys"])
        raise ModelError(
            f"{model}: {len(missing)} weights are missing ({missing[0]}, ...)"
            + (f", while {unexpected[0]} is there" if unexpected else "")
            + "; a file is incomplete or of another model: download it again"
        )
    return loaded if options else loaded.to(device)  # what is quantised stands where it was loaded


def load_config(model: str | Path) -> Any:
    """Return a model's config. Raises ModelError if there is none that Transformers knows."""
    check_folder(model)
    try:
        return AutoConfig.from_pretrained(str(model), trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (whatever Transformers raises)
        raise ModelError(f"{model}: cannot read config.json ({first_line(error)}){_remedy(error)}") from None


def _remedy(error: Exception) -> str:
    """Return what a user can do about an error of loading, from its words: Transformers has no types for them."""
    words = f"{type(error).__name__} {error}".lower()
    for marks, remedy in (
        (("flash_attn", "flash attention", "flashattention"), "remove attn_implementation from config.json"),
        (("importerror", "requires the", "no module named"), "install what it names"),
        (("trust_remote_code", "custom code"), "only models that Transformers knows itself are run"),
        (("mismatch", "size of tensor", "shape"), "the weights are not of this config.json: download both again"),
        (("model type", "model_type", "unrecognized model"), "upgrade transformers, or mend model_type in config.json"),
        (("safetensor", "header", "eof", "zip", "pickle", "truncated"), "a weights file is damaged: download it again"),
    ):
        if any(mark in words for mark in marks):
            return f"; {remedy}"
    return "; check the folder or download it again"


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


def attention_mask(model: Any, visible: torch.Tensor) -> torch.Tensor:
    """Return a [.., queries, keys] mask of what may be attended to, in the form the model's attention takes: SDPA
    applies a boolean mask, eager attention would add it to its scores."""
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        return visible
    dtype = next(model.parameters()).dtype
    blocked = torch.finfo(dtype).min
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, blocked)


def first_line(error: Exception) -> str:
    """Return the first line of an error, of at most 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
