"""Merge an adapter into its base, write a model folder, and check that its outputs are the adapter's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from stepagent.config.settings import TrainSettings
from stepagent.console import warn
from stepagent.errors import ModelError, ParityError
from stepagent.files.jsonl import write_atomic
from stepagent.models.file_weights import FileWeights, empty_model
from stepagent.models.loading import writing
from stepagent.models.parity import check_outputs
from stepagent.models.saving import save_model
from stepagent.models.streaming import NotStreamable, copy_in_precision, folder_outputs
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.layers import Adapter
from stepagent.training.streamed_merge import StreamedModel
from stepagent.training.trainer import leave_process_group_at_exit, work_folder
from stepagent.training.whole_merge import WholeModel


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
        with made_whole(out) as part:
            figures = write_trained(trained, weights, part, probes=probes)
            write_atomic(part / "README.md", _card(trained.base, {**made_from, **figures}, trained.settings))
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
        adapter = Adapter(trained.model.peft_config["default"], weights)
        dtype = settings.serving_dtype or "bfloat16"
        figures = write_merged(trained.base, adapter, folder, tokenizer=trained.tokenizer, dtype=dtype, probes=probes)
    else:
        save_model(trained.model, trained.base, folder, tokenizer=trained.tokenizer, weights=weights)
        figures = {"parity": _check_weights(folder, weights)}
    if settings.serving_dtype:
        copy_in_precision(folder, folder / "serving", getattr(torch, settings.serving_dtype))
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


def write_merged(
    base: str | Path,
    adapter: Adapter,
    folder: Path,
    *,
    tokenizer: ChatTokenizer,
    dtype: str,
    probes: Sequence[Sequence[int]],
) -> dict[str, float]:
    """Write the model in `base` with the adapter merged into it, in float32, and the adapter beside it. Returns the
    figures of `save_merged`, with the share of the update that survives `dtype`.

    Weights are read, merged and written one by one; a model whose code or files do not allow that is merged in memory,
    and a warning says why."""
    try:
        model: StreamedModel | WholeModel = StreamedModel(base, adapter)
        outputs = model.outputs(probes)
    except NotStreamable as error:
        reason = str(error)
    else:
        reason = ""
    if reason:
        warn([f"{base}: merged in memory, which holds the whole model in float32: {reason}"])
        model = WholeModel(base, adapter)
        outputs = model.outputs(probes)
    with writing(folder):
        model.save_adapter(folder / "adapter")
    share = model.write(folder, getattr(torch, dtype), tokenizer=tokenizer)
    del model  # one float32 copy at a time: a large model's is most of a machine's memory
    try:
        parity = check_outputs(outputs, folder_outputs(folder, probes))
    except ParityError as error:
        raise ParityError(f"{folder}: the merged model is not the trained one: {error}; kept for a look") from None
    return {"parity": parity, f"surviving_{dtype}": share}


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """Return a folder to write a model to, which gets the name `out` when it is whole."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    yield part
    if out.is_dir():
        out.rmdir()
    part.rename(out)


def _check_weights(part: Path, weights: Mapping[str, torch.Tensor]) -> float:
    """Return 0, the difference, if the folder `part` holds exactly `weights`; else raise ParityError."""
    copies = FileWeights(empty_model(part, torch.float32), part)
    for name, weight in weights.items():
        copy = copies[name]
        if not torch.equal(copy, weight.to(copy.dtype)):
            raise ParityError(f"{part}: the written model is not the trained one: {name} differs")
    return 0.0
