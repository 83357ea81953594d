"""A transformers.Trainer over packs: one optimizer step = one global batch of units, whatever the packing
and the number of processes that share the work."""

from __future__ import annotations

import atexit
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from stepagent.config.settings import TrainSettings
from stepagent.errors import ModelError
from stepagent.files.jsonl import write_atomic
from stepagent.files.runs import move_aside
from stepagent.models.folders import holds_whole_weights
from stepagent.models.loading import pick_dtype, writing
from stepagent.training.batches import PackedBatches, Share
from stepagent.training.memory import keep_freed_memory
from stepagent.training.mode import learning_mode
from stepagent.training.packing import Pack
from stepagent.training.probing import pick_scoring
from stepagent.training.scoring import full_logprobs, plain_scoring


class Monitor(Protocol):
    """Follows a training as it goes."""

    def step(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """Take the newest metrics of optimizer step `step` of `steps`."""
        ...

    def warn(self, warning: str) -> None:
        """Take a warning."""
        ...


class PackedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose batches are `Share`s. Subclasses implement `pack_loss`, and extend `begin` if they have
    something to do before the first step."""

    def __init__(
        self,
        model: Any,
        batches: PackedBatches,
        arguments: TrainingArguments,
        *,
        monitor: Monitor,
    ) -> None:
        if arguments.use_cpu:
            keep_freed_memory()
        arguments._n_gpu = 1  # several GPUs mean several processes here; DataParallel would drop work
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=batches,
            data_collator=lambda items: items[0],
            callbacks=[_Begin(self.begin), _Report(monitor)],
        )
        self.remove_callback(PrinterCallback)
        self.warn = monitor.warn
        self._sums: dict[str, float] = {}

    def begin(self) -> None:
        """Decide how the model is scored. Called before the first step, once the model is sharded."""
        batches: PackedBatches = self.train_dataset
        mixed = self.accelerator.mixed_precision != "no"
        pack = batches.largest_pack()
        scoring = pick_scoring(self.model, batches.units, batches.scoring.token_budget, pack=pack, mixed=mixed)
        attention = self.model.config._attn_implementation
        choices = gather_object([(attention, scoring.unsuited)])  # one for all, or the packs would differ
        unsuited = next((reason for _, reason in choices if reason), "")
        # by paths, packs take different numbers of forward passes, and sharded models would wait for each other
        if unsuited and (not scoring.unsuited or (scoring.by_paths and self.args.world_size > 1)):
            scoring = plain_scoring(unsuited, full_logprobs)
        elif len({name for name, _ in choices}) > 1:
            self.model.set_attn_implementation("sdpa")
        batches.scoring = scoring
        if scoring.unsuited:
            self.warn(f"without packing, sequences are scored {scoring.way}")

    def score(self, model: Any, pack: Pack) -> torch.Tensor:
        """Score a pack in the way that the model takes; arguments and result as in `Score`."""
        logprobs: torch.Tensor = self.train_dataset.scoring.score(model, pack)
        return logprobs

    def pack_loss(self, model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the sum of the losses in a pack, a scalar with a gradient, and the sums of its metrics."""
        raise NotImplementedError

    def training_step(self, model: Any, inputs: Share, num_items_in_batch: object = None) -> torch.Tensor:
        """Run forward and backward over this process' packs, one at a time. Returns the loss of the global
        batch. Raises ModelError if it is not finite."""
        start = time.perf_counter()
        learning_mode(model)
        batches: PackedBatches = self.train_dataset
        total = torch.zeros((), device=self.args.device)
        sums: dict[str, float] = {}
        tokens = alone = 0
        for number, pack in enumerate(inputs.packs):
            # Fillers run with weight 0 instead of being left out: a sharded model's passes exchange weights,
            # so a process that skips one would leave the others waiting.
            weight = float(number < inputs.real) / inputs.mean_over
            last = number == len(inputs.packs) - 1
            # Gradients are exchanged once, after the last pack. FSDP2 exchanges them each time: to wait, it
            # would keep whole, unsharded gradients between the packs.
            hold = not last and not getattr(self.accelerator, "is_fsdp2", False)
            with self.accelerator.no_sync(model) if hold else nullcontext():
                loss, metrics = self.pack_loss(model, pack)
                # The exchange averages over the processes, but `mean_over` already counts all of them.
                self.accelerator.backward(loss * weight * self.args.world_size)
            total += loss.detach() * weight
            tokens += batches.scoring.tokens(pack)
            alone += sum(len(target.ids) - 1 for target in pack.targets)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value * weight
        # All processes have the same names, and metrics are reduced in one call with the loss.
        names = sorted(sums)
        local = torch.tensor([total.item(), *(sums[name] for name in names)], device=total.device)
        totals: torch.Tensor = self.accelerator.reduce(local, reduction="sum")
        if not torch.isfinite(totals[0]):
            raise self._diverged(f"the loss is {totals[0].item()}")
        self._sums = dict(zip(names, totals[1:].tolist(), strict=True))
        seconds = time.perf_counter() - start
        self._sums["tokens_per_second"] = tokens * self.args.world_size / seconds
        self._sums["tokens_saved"] = 1 - tokens / alone
        return totals[0]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the batch's own metrics beside the Trainer's."""
        super().log({**logs, **self._sums} if "loss" in logs else logs, *args, **kwargs)

    def _diverged(self, problem: str) -> ModelError:
        return ModelError(
            f"{problem} at step {self.state.global_step + 1}; lower learning_rate or train in float32; the "
            f"last good checkpoint stays in {self.args.output_dir}"
        )

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None and not math.isfinite(float(norm)):
            raise self._diverged("the gradient is not a number")
        return norm

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if not all(p.isfinite().all() for p in self.model.parameters() if p.requires_grad):
            raise self._diverged("a weight is not a number")
        with writing(Path(self.args.output_dir)):
            super()._save_checkpoint(*args, **kwargs)


class _Begin(TrainerCallback):  # type: ignore[misc]
    """A callback before the first step."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begin()


class _Report(TrainerCallback):  # type: ignore[misc]
    """A callback that passes the metrics of each step on to `monitor`."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs and state.is_world_process_zero:
            self._monitor.step(state.global_step, state.max_steps, logs)


def training_arguments(
    settings: TrainSettings, steps: int, folder: Path, *, seed: int, device: torch.device
) -> TrainingArguments:
    """Return the Trainer's arguments for a run of `steps` optimizer steps; checkpoints go to `folder`. Raises
    ModelError for a tracker that is not installed."""
    trackers = get_available_reporting_integrations()
    if settings.report_to not in ("none", *trackers):
        raise ModelError(
            f"report_to: '{settings.report_to}' is not installed; here are: {', '.join(['none', *trackers])}"
        )
    if settings.report_to == "tensorboard":  # `folder` goes away when the run is done
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.with_suffix(".tensorboard"))
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=round(settings.warmup_ratio * steps),
        max_grad_norm=settings.max_grad_norm,
        weight_decay=0.0,
        logging_steps=1,
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 500,
        save_total_limit=2,
        report_to=settings.report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        ddp_timeout=24 * 3600,  # others wait while the main process merges
        gradient_checkpointing=settings.gradient_checkpointing,
        use_cpu=device.type == "cpu",
        bf16=_computes_in_bfloat16(settings, device),
        seed=seed,
    )


def _computes_in_bfloat16(settings: TrainSettings, device: torch.device) -> bool:
    """Return whether the passes run in bfloat16 though the weights are float32 or 4 bits, which they are for
    the optimizer's and the memory's sake."""
    differs = settings.lora is None or settings.lora.quantize is not None
    return differs and pick_dtype(settings.dtype, device) == torch.bfloat16


def train(trainer: PackedTrainer, fingerprint: str) -> list[dict[str, float]]:
    """Train to the end, from the newest whole checkpoint of the same work if there is one.

    `fingerprint` identifies the work: a folder with another one's is moved to NAME.stale. Returns the metrics
    of every optimizer step.
    """
    folder = Path(trainer.args.output_dir)
    file = folder / "fingerprint"
    if trainer.accelerator.is_main_process:
        last_fingerprint = file.read_text(encoding="utf-8") if file.is_file() else None
        if last_fingerprint != fingerprint:
            # The Trainer has made the folder already: with no fingerprint and no checkpoint it is just new.
            if last_fingerprint is not None or any(folder.glob("checkpoint-*")):
                move_aside(folder)
            write_atomic(file, fingerprint)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def work_identity(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings on which the training steps depend: work with the same ones can be continued."""
    irrelevant = {"report_to", "save_steps", "serving_dtype", "guards", "pairs"}
    return settings.model_dump(exclude=irrelevant)


def leave_process_group_at_exit() -> None:
    """Leave the process group, if there is one, when this process ends: its threads would be torn down while they
    run, and a process whose work is done would end with SIGABRT. To be called when every process is done: one
    that fails must not wait for the others."""
    if torch.distributed.is_initialized():
        atexit.register(torch.distributed.destroy_process_group)


def work_folder(out: Path) -> Path:
    """Return the folder of the checkpoints while `out` is in the making."""
    return out.with_name(out.name + ".work")


def last_checkpoint(folder: Path) -> str | None:
    """Return the folder of the newest whole checkpoint, or None if there is none. The Trainer writes
    trainer_state.json last, so a checkpoint with a readable state is whole, unless the disk lost a part of it."""
    checkpoints = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            step = int(json.loads(state.read_text())["global_step"])
        except (ValueError, KeyError):
            continue
        if holds_whole_weights(state.parent):
            checkpoints.append((step, str(state.parent)))
    return max(checkpoints)[1] if checkpoints else None
