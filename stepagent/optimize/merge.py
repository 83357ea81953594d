"""Merge the adapter into its base, write a model folder, and prove that it says what the adapter said."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from stepagent.config.settings import TrainSettings
from stepagent.errors import ModelError, ParityError
from stepagent.files.jsonl import write_atomic
from stepagent.models.loading import load_model, pick_device, writing
from stepagent.models.parity import Outputs, check_outputs, probe_outputs
from stepagent.optimize.trainer import work_folder

_SHARD = "5GB"
_CPU = torch.device("cpu")


def refuse_existing(out: Path) -> None:
    """Raise ModelError if `out` is there already: nothing of the user's is ever replaced."""
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ModelError(f"{out}: is there already; choose another --out or move it away")


def save_merged(
    accelerator: Any,
    model: Any,
    tokenizer: Any,
    base: str | Path,
    out: Path,
    probes: Sequence[Sequence[int]],
    settings: TrainSettings,
    made_from: Mapping[str, object],
) -> dict[str, float]:
    """Write the trained `model` to `out` and remove the checkpoints that led to it. Of several processes
    the main one does it.

    An adapter is merged in float32 into `base` read anew, whatever precision it was trained in, and kept
    in `out`/adapter; the folder is read back and compared with the unmerged model on `probes`. A fully
    trained model is written as it is, and its weights are read back. Only then the folder gets its name.
    Raises ParityError. A model card says what it was `made_from`; settings.serving_dtype adds a copy in that
    precision, in `out`/serving.

    Returns `parity`, the largest difference in log-probability, and for an adapter
    `surviving_<serving_dtype>`, the share of the update that is left if the merged weights are rounded to
    that (bfloat16 if none is set). At a small learning rate most can be lost: serve in float32, or train
    longer.
    """
    figures: dict[str, float] = {}
    adapted = hasattr(model, "merge_and_unload")
    trained = _gathered(model, keep=accelerator.is_main_process)
    if accelerator.is_main_process:
        part = out.with_name(out.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        if adapted:
            with writing(part):
                model.save_pretrained(part / "adapter", state_dict=trained)
            figures = _write_merged(base, part, probes, settings.serving_dtype or "bfloat16")
        else:
            with writing(part):
                model.save_pretrained(part, state_dict=trained, max_shard_size=_SHARD)
            figures = {"parity": _same_weights(part, trained)}
        tokenizer.save_pretrained(part)
        write_atomic(part / "README.md", _card(base, {**made_from, **figures}, settings))
        if settings.serving_dtype:
            rounded = load_model(part, getattr(torch, settings.serving_dtype), _CPU)
            with writing(part):
                rounded.save_pretrained(part / "serving", max_shard_size=_SHARD)
            tokenizer.save_pretrained(part / "serving")
        if out.is_dir():
            out.rmdir()
        part.rename(out)
        shutil.rmtree(work_folder(out), ignore_errors=True)
    accelerator.wait_for_everyone()
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


def _gathered(model: Any, keep: bool) -> dict[str, torch.Tensor]:
    """The trained weights, whole and on the CPU, where they are to be kept; every process of a sharded model
    takes part."""
    whole = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gathered = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            if keep:
                whole[name] = gathered.detach().cpu()
    return whole


def _write_merged(
    base: str | Path, part: Path, probes: Sequence[Sequence[int]], dtype: str
) -> dict[str, float]:
    from peft import PeftModel

    exact = PeftModel.from_pretrained(_placed(load_model(base, torch.float32, _CPU)), str(part / "adapter"))
    outputs = probe_outputs(exact, probes)
    surviving = _merge_layers(exact, getattr(torch, dtype))
    with writing(part):
        exact.unload().save_pretrained(part, max_shard_size=_SHARD)
    del exact  # one float32 copy at a time: a large model's is most of a machine's memory
    return {"parity": _proven(part, outputs, probes), f"surviving_{dtype}": surviving}


@torch.no_grad()
def _merge_layers(model: Any, dtype: torch.dtype) -> float:
    """Merge every adapted layer of a PeftModel. Returns the share of the update that survives `dtype`: the
    rounded update's projection on the exact one, over the exact one's squared length. 1 is all; 0 is none;
    nan, no update."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    projected = total = 0.0
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            weight: Any = layer.get_base_layer().weight
            old = weight.clone()
            layer.merge()
            part, whole = surviving(old, weight, dtype)
            projected, total = projected + part, total + whole
    return projected / total if total else float("nan")


def surviving(old: torch.Tensor, new: torch.Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """Of the update old -> new, what is left of it in its own direction once both are rounded to `dtype`, and
    all of it: (rounded update . update, |update|^2)."""
    update = (new - old).double()
    rounded = new.to(dtype).double() - old.to(dtype).double()
    return (update * rounded).sum().item(), update.square().sum().item()


def _placed(model: Any) -> Any:
    """On the GPU if it fits there beside what is there already."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(pick_device())
        if sum(p.numel() * p.element_size() for p in model.parameters()) * 1.2 < free:
            return model.to(pick_device())
    return model


def _same_weights(part: Path, trained: Mapping[str, torch.Tensor]) -> float:
    """A fully trained model is proven by its weights: they are read back as they were."""
    written = dict(load_model(part, torch.float32, _CPU).named_parameters())
    for name, weight in trained.items():
        if not torch.equal(written[name], weight.float()):
            raise ParityError(f"{part}: the written model is not the trained one: {name} differs")
    return 0.0


def _proven(part: Path, outputs: Sequence[Outputs], probes: Sequence[Sequence[int]]) -> float:
    try:
        return check_outputs(outputs, _placed(load_model(part, torch.float32, _CPU)), probes)
    except ParityError as error:
        raise ParityError(
            f"{part}: the merged model is not the trained one: {error}; kept for a look"
        ) from None
