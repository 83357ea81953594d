"""Merge an adapter into its base, write a model folder, and check that its outputs are the adapter's."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from stepagent.config.settings import TrainSettings
from stepagent.errors import ModelError, ParityError
from stepagent.files.jsonl import write_atomic
from stepagent.models.loading import load_model, pick_device, writing
from stepagent.models.parity import Outputs, check_outputs, probe_outputs
from stepagent.models.saving import save_model
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.adapters import add_adapter
from stepagent.training.trainer import leave_process_group_at_exit, work_folder

_CPU = torch.device("cpu")


def refuse_existing(out: Path) -> None:
    """Raise ModelError if `out` exists and is not an empty folder: a user's files are never replaced."""
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ModelError(f"{out}: is there already; choose another --out or move it away")


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The model that training has changed, its tokenizer, the folder or hub id of the model it was made from, and the
    settings it was trained with."""

    model: Any
    tokenizer: ChatTokenizer
    base: str | Path
    settings: TrainSettings


def save_merged(
    accelerator: Any,
    trained: TrainedModel,
    out: Path,
    *,
    probes: Sequence[Sequence[int]],
    made_from: Mapping[str, object],
) -> dict[str, float]:
    """Write a trained model to the folder `out` and remove the checkpoints that led to it. Every process
    calls this; the main one writes.

    An adapter is merged in float32 into its base read anew, whatever precision it was trained in, and kept
    in `out`/adapter; the folder is read back and compared with the unmerged model on `probes` (token ids). A
    fully trained model is written as it is, and its weights are read back. Only then the folder gets its
    name. The model card lists the facts in `made_from`; settings.serving_dtype adds a copy in that precision,
    in `out`/serving.

    Returns `parity`, the largest difference in log-probability (nats), and for an adapter
    `surviving_<serving_dtype>`, the share of the update that is left if the merged weights are rounded to
    that precision (bfloat16 if none is set). At a small learning rate most of it can be lost: serve in
    float32, or train longer. Raises ParityError if the written model differs from the trained one, and
    ModelError if the disk cannot take it.
    """
    weights = gather_weights(trained.model, keep=accelerator.is_main_process)
    figures: dict[str, float] = {}
    if accelerator.is_main_process:
        part = out.with_name(out.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        figures = write_trained(trained, weights, part, probes=probes)
        write_atomic(part / "README.md", _card(trained.base, {**made_from, **figures}, trained.settings))
        if out.is_dir():
            out.rmdir()
        part.rename(out)
        shutil.rmtree(work_folder(out), ignore_errors=True)
    accelerator.wait_for_everyone()
    leave_process_group_at_exit()
    return figures


def write_trained(
    trained: TrainedModel, weights: Mapping[str, torch.Tensor], folder: Path, *, probes: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Write a trained model, whose changed tensors are `weights`, and check what was written. Returns the figures of
    `save_merged`, and raises its errors."""
    settings = trained.settings
    if settings.lora:
        figures = _write_merged(trained, weights, folder, probes=probes)
    else:
        save_model(trained.model, trained.base, folder, tokenizer=trained.tokenizer, weights=weights)
        figures = {"parity": _check_weights(folder, weights)}
    if settings.serving_dtype:
        serving_model = load_model(folder, getattr(torch, settings.serving_dtype), _CPU)
        save_model(serving_model, folder, folder / "serving", tokenizer=trained.tokenizer)
    return figures


def _card(base: str | Path, facts: Mapping[str, object], settings: TrainSettings) -> str:
    lines = [
        "---",
        "library_name: transformers",
        "tags: [stepagent, step-dpo]",
        "---",
        "",
        f"Trained by stepagent from `{base}`.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "```yaml",
        yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False).rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def gather_weights(model: Any, keep: bool) -> dict[str, torch.Tensor]:
    """Return what a model's folder must hold, unsharded and on the CPU: of an adapter its weights; of a model that is
    trained whole all parameters and all buffers that belong to it, such as the bias of a router. Nothing if not
    `keep`. Every process of a sharded model must call it, since each holds a part."""
    adapted = hasattr(model, "peft_config")
    tensors = dict(model.named_parameters())
    if not adapted:
        belonging = model.state_dict().keys()
        tensors |= {name: buffer for name, buffer in model.named_buffers() if name in belonging}
    weights = {}
    for name, tensor in tensors.items():
        if not adapted or tensor.requires_grad:
            whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            if keep:
                weights[name] = whole.detach().cpu()
    return weights


def _write_merged(
    trained: TrainedModel, weights: Mapping[str, torch.Tensor], part: Path, *, probes: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Write the adapter with these weights and the model into which it is merged. Returns the figures of
    `save_merged`."""
    assert trained.settings.lora
    # The adapter's weights go from the trained model to this one without a file between them, so that the comparison
    # starts from what was trained and not from what was written.
    model = add_adapter(load_model(trained.base, torch.float32, _CPU), trained.settings.lora)
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ParityError(f"{part}: the adapter's {unknown[0]} has no place in the model read anew")
    model = _place(model)
    outputs = probe_outputs(model, probes)
    with writing(part):
        model.save_pretrained(part / "adapter")
    dtype = trained.settings.serving_dtype or "bfloat16"
    share = _merge_layers(model, getattr(torch, dtype))
    save_model(model.unload(), trained.base, part, tokenizer=trained.tokenizer)
    del model  # one float32 copy at a time: a large model's is most of a machine's memory
    return {"parity": _check_outputs(part, outputs, probes), f"surviving_{dtype}": share}


@torch.no_grad()
def _merge_layers(model: Any, dtype: torch.dtype) -> float:
    """Merge every adapted layer of a PeftModel. Returns the share of the update that survives `dtype`: the
    rounded update's projection on the exact one, over the exact one's squared length. 1 means all of it, 0
    none of it, nan that there is no update."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    projection = total = 0.0
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            # an adapted tensor of experts or of a router has another name than `weight`
            name, base_layer = getattr(layer, "parameter_name", "weight"), layer.get_base_layer()
            base_weight = getattr(base_layer, name).clone()
            layer.merge()
            dot, square = surviving(base_weight, getattr(base_layer, name), dtype)
            projection, total = projection + dot, total + square
    return projection / total if total else float("nan")


def surviving(base: torch.Tensor, merged: torch.Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """Return (rounded update . update, |update|^2) of the update base -> merged, where the rounded update is
    the difference of both weights after rounding to `dtype`. Their quotient is the share that survives."""
    update = (merged - base).double()
    rounded_update = merged.to(dtype).double() - base.to(dtype).double()
    return (update * rounded_update).sum().item(), update.square().sum().item()


def _place(model: Any) -> Any:
    """Return the model on the GPU if the free memory there holds it with a fifth to spare, else as it is."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(pick_device())
        if sum(p.numel() * p.element_size() for p in model.parameters()) * 1.2 < free:
            return model.to(pick_device())
    return model


def _check_weights(part: Path, weights: Mapping[str, torch.Tensor]) -> float:
    """Return 0, the difference, if the folder `part` holds exactly `weights`; else raise ParityError."""
    copies = load_model(part, torch.float32, _CPU).state_dict()
    for name, weight in weights.items():
        if not torch.equal(copies[name], weight.to(copies[name].dtype)):
            raise ParityError(f"{part}: the written model is not the trained one: {name} differs")
    return 0.0


def _check_outputs(part: Path, outputs: Sequence[Outputs], probes: Sequence[Sequence[int]]) -> float:
    """Return the largest difference (nats) between `outputs` and those of the model in the folder `part`.
    Raises ParityError, and keeps the folder, if it is too large."""
    try:
        return check_outputs(outputs, _place(load_model(part, torch.float32, _CPU)), probes)
    except ParityError as error:
        raise ParityError(f"{part}: the merged model is not the trained one: {error}; kept for a look") from None
