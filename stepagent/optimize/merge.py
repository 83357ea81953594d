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
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.optimize.trainer import leave_process_group_at_exit, work_folder

_SHARD = "5GB"  # the largest weight file
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
    model, tokenizer, base, settings = trained.model, trained.tokenizer, trained.base, trained.settings
    figures: dict[str, float] = {}
    has_adapter = hasattr(model, "merge_and_unload")
    weights = _gather_weights(model, keep=accelerator.is_main_process)
    if accelerator.is_main_process:
        part = out.with_name(out.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        if has_adapter:
            with writing(part):
                model.save_pretrained(part / "adapter", state_dict=weights)
            figures = _write_merged(base, part, probes, dtype=settings.serving_dtype or "bfloat16")
        else:
            with writing(part):
                model.save_pretrained(part, state_dict=weights, max_shard_size=_SHARD)
            figures = {"parity": _check_weights(part, weights)}
        tokenizer.save(part)
        write_atomic(part / "README.md", _card(base, {**made_from, **figures}, settings))
        if settings.serving_dtype:
            serving_model = load_model(part, getattr(torch, settings.serving_dtype), _CPU)
            with writing(part):
                serving_model.save_pretrained(part / "serving", max_shard_size=_SHARD)
            tokenizer.save(part / "serving")
        if out.is_dir():
            out.rmdir()
        part.rename(out)
        shutil.rmtree(work_folder(out), ignore_errors=True)
    accelerator.wait_for_everyone()
    leave_process_group_at_exit()
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


def _gather_weights(model: Any, keep: bool) -> dict[str, torch.Tensor]:
    """Return the trained weights, unsharded and on the CPU; nothing if not `keep`. Every process of a sharded
    model must call it, since each holds a part."""
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            weight = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            if keep:
                weights[name] = weight.detach().cpu()
    return weights


def _write_merged(base: str | Path, part: Path, probes: Sequence[Sequence[int]], *, dtype: str) -> dict[str, float]:
    from peft import PeftModel

    model = PeftModel.from_pretrained(_place(load_model(base, torch.float32, _CPU)), str(part / "adapter"))
    outputs = probe_outputs(model, probes)
    share = _merge_layers(model, getattr(torch, dtype))
    with writing(part):
        model.unload().save_pretrained(part, max_shard_size=_SHARD)
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
            weight: Any = layer.get_base_layer().weight
            base_weight = weight.clone()
            layer.merge()
            dot, square = surviving(base_weight, weight, dtype)
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
    copies = dict(load_model(part, torch.float32, _CPU).named_parameters())
    for name, weight in weights.items():
        if not torch.equal(copies[name], weight.float()):
            raise ParityError(f"{part}: the written model is not the trained one: {name} differs")
    return 0.0


def _check_outputs(part: Path, outputs: Sequence[Outputs], probes: Sequence[Sequence[int]]) -> float:
    """Return the largest difference (nats) between `outputs` and those of the model in the folder `part`.
    Raises ParityError, and keeps the folder, if it is too large."""
    try:
        return check_outputs(outputs, _place(load_model(part, torch.float32, _CPU)), probes)
    except ParityError as error:
        raise ParityError(f"{part}: the merged model is not the trained one: {error}; kept for a look") from None
