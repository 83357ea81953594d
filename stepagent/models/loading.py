"""Loading a tokenizer or a model from a folder or a hub id, with one clear sentence where that fails."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as transformers_logging

from stepagent.errors import ModelError
from stepagent.models.batch_attention import BATCH
from stepagent.models.folders import check_folder, check_weights, local_files, read_json

_SLOW = 2
"""A half precision that takes more than this many times as long as float32 is worth a warning."""

transformers_logging.disable_progress_bar()  # our own bars say what is going on


def pick_device(device: str = "auto") -> torch.device:
    """Return a device by name; "auto" is this process' CUDA device, else the CPU."""
    if device == "auto":
        local = os.environ.get("LOCAL_RANK", "0")
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return a precision by name; "auto" is bfloat16 on CUDA and float32 elsewhere. A half precision that makes this
    CPU much slower is logged as a warning. Raises ModelError."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    precision = getattr(torch, dtype, None)
    if not isinstance(precision, torch.dtype):
        raise ModelError(f"unknown dtype '{dtype}'; use auto, float32 or bfloat16")
    if device.type == "cpu" and precision in (torch.bfloat16, torch.float16):
        _warn_if_slow(precision)
    return precision


@cache
def _warn_if_slow(precision: torch.dtype) -> None:
    """Log a warning, once a process, if products of matrices take over twice as long as in float32: a CPU without
    instructions for half precision computes them element by element. Measured in a few hundredths of a second."""
    factor = _product_seconds(precision) / _product_seconds(torch.float32)
    if factor > _SLOW:
        name = str(precision).removeprefix("torch.")
        logging.getLogger("stepagent").warning(
            "dtype %s: on this CPU a product of matrices takes %.0f times as long as in float32; set dtype: float32",
            name,
            factor,
        )


def _product_seconds(precision: torch.dtype) -> float:
    """Return the seconds of a product of two matrices of 128 x 256 and 256 x 256, the best of three."""
    first, second = torch.ones(128, 256, dtype=precision), torch.ones(256, 256, dtype=precision)
    times = []
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        first @ second
        times.append(time.perf_counter() - start)
    return min(times[1:])


def load_model(
    model: str | Path, dtype: torch.dtype, device: torch.device, *, kind: Any = AutoModelForCausalLM, **options: Any
) -> Any:
    """Return a model, by default a causal language model; `options` go to Transformers. Raises ModelError, with the
    cause and a remedy, for a folder that does not hold all its weights: Transformers would draw them at random."""
    check_folder(model)
    check_weights(model, causal=kind is AutoModelForCausalLM)
    load_config(model)
    if kind is AutoModelForCausalLM:
        # Transformers refuses defaults of generation that contradict each other; of them, only the ends count here.
        options = {"generation_config": GenerationConfig(), **options}
    try:
        with silenced():
            loaded, report = kind.from_pretrained(
                str(model),
                dtype=dtype,
                output_loading_info=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                **options,
            )
    except torch.OutOfMemoryError:
        raise ModelError(f"{model}: out of memory at loading; use a smaller model or another device") from None
    except Exception as error:  # noqa: BLE001 (whatever Transformers and its readers raise)
        raise ModelError(f"{model}: cannot load the model ({first_line(error)}){_remedy(error)}") from None
    _refuse_strangers(model, loaded, report)
    if kind is AutoModelForCausalLM:
        loaded.generation_config.eos_token_id = end_ids(model, loaded.config)
    # a quantised model stands on its device already
    return loaded if "quantization_config" in options else loaded.to(device)


def end_ids(model: str | Path, config: Any) -> list[int]:
    """Return the ids that end a text by a model's generation_config.json, or else by its config."""
    files = local_files(model)
    file = files / "generation_config.json" if files else None
    stated = read_json(file).get("eos_token_id") if file and file.is_file() else None
    ids = config.get_text_config(decoder=True).eos_token_id if stated is None else stated
    return [ids] if isinstance(ids, int) else list(ids or ())


def _refuse_strangers(model: str | Path, loaded: Any, report: Mapping[str, Any]) -> None:
    """Raise ModelError if weights are missing, have other shapes, or are left over though the model has such layers:
    Transformers would draw the first two at random and forget the third."""
    if mismatched := sorted(report["mismatched_keys"]):
        name, shape, expected_shape = mismatched[0]
        raise ModelError(
            f"{model}: {name} has the shape {tuple(shape)} and config.json asks for {tuple(expected_shape)}; "
            "the weights are not of this config.json: download both again"
        )
    unexpected = sorted(report["unexpected_keys"])
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{model}: {len(missing)} weights are missing ({missing[0]}, ...)"
            + (f", while {unexpected[0]} is there" if unexpected else "")
            + "; a file is incomplete or of another model: download it again"
        )
    shapes = {_numberless(name) for name in loaded.state_dict()}
    modules = {name for name, _ in loaded.named_modules()}
    for name in unexpected:
        parent, _, last = name.rpartition(".")
        if _numberless(name) in shapes or (parent in modules and last in ("weight", "bias")):
            raise ModelError(
                f"{model}: {name} is among the weights and config.json has no place for it; config.json is of another "
                "model: download both again"
            )


def _numberless(name: str) -> str:
    """Return the name of a tensor without the numbers of layers and experts."""
    return re.sub(r"\d+", "#", name)


@contextmanager
def silenced() -> Iterator[None]:
    """Context that keeps Transformers' reports from the terminal: one sentence of ours follows."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def load_config(model: str | Path) -> Any:
    """Return a model's config. Raises ModelError if there is none that Transformers knows."""
    check_folder(model)
    try:
        with silenced():
            config = AutoConfig.from_pretrained(str(model), trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (whatever Transformers raises)
        if not Path(model).is_dir():
            raise ModelError(f"{model}: no such model folder, and it is not in the hub ({first_line(error)})") from None
        remedy = _remedy(error, "mend config.json or download it again")
        raise ModelError(f"{model}: cannot read config.json ({first_line(error)}){remedy}") from None
    attention = str(getattr(config, "_attn_implementation", None) or "")
    # Transformers would fetch a kernel from the hub in its place: code that nobody has asked for
    if "/" in attention or (attention.startswith("flash_attention") and find_spec("flash_attn") is None):
        raise ModelError(
            f"{model}: config.json asks for '{attention}', which is not installed; remove attn_implementation (or "
            "_attn_implementation) from config.json"
        )
    return config


def _remedy(error: Exception, otherwise: str = "check config.json, or download it again") -> str:
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
    return f"; {otherwise}"


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
    """Return a [.., queries, keys] mask of what may be attended to, in the form the model's attention takes: SDPA and
    what does the same apply a boolean mask, eager attention would add it to its scores."""
    if getattr(model.config, "_attn_implementation", None) in ("sdpa", BATCH):
        return visible
    dtype = next(model.parameters()).dtype
    blocked = torch.finfo(dtype).min
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, blocked)


def first_line(error: Exception) -> str:
    """Return the first line of an error, of at most 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
