"""A transformers.Trainer over packs: one optimizer step = one global batch of units, whatever the packing
and however many processes share the work."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from stepagent.config.settings import TrainSettings
from stepagent.errors import ModelError
from stepagent.files.jsonl import write_atomic
from stepagent.files.runs import move_aside
from stepagent.models.loading import pick_dtype, writing
from stepagent.optimize.memory import keep_freed_memory
from stepagent.optimize.packing import Pack, Unit, make_packs
from stepagent.optimize.scoring import Score, packed_logprobs, pick_scoring, plain_scoring

Progress = Callable[[int, int, dict[str, float]], None]
"""(optimizer step, of how many, newest metrics)"""


class Share(NamedTuple):
    """One process' part of a global batch (a tuple, since the Trainer looks into its batches).

    `mean_over` is what the batch's mean is over, on all processes. Every process gets equally many packs, as
    sharded models need equally many forward passes; those from `real` on only fill up and weigh nothing.
    """

    packs: tuple[Pack, ...]
    real: int
    mean_over: int


class PackedBatches(Dataset[Share]):
    """All optimizer steps of a run in order: item i is process i % processes' share of batch i // processes.

    Groups (the units of one tree) are shuffled whole, or in parts of half a batch if they are larger, anew
    each epoch, and cut into batches of `batch_size` units: a batch mixes trees, and what a tree shares stays
    together. `weigh` says how much
    a pack adds to the count that the loss is a mean over. `beside` units (replay) are dealt out evenly over
    the batches, in a new order each epoch, on top of their `batch_size`.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        groups: Sequence[object],
        settings: TrainSettings,
        seed: int,
        weigh: Callable[[Pack], int],
        processes: int = 1,
        beside: Sequence[Unit] = (),
    ) -> None:
        self.units = [*units, *beside]
        self.token_budget = settings.token_budget
        self._weigh = weigh
        self._processes = processes
        by_group: dict[object, list[int]] = {}
        for index, group in enumerate(groups):
            by_group.setdefault(group, []).append(index)
        half = max(1, settings.batch_size // 2)  # no tree fills a batch alone
        parts = [group[i : i + half] for group in by_group.values() for i in range(0, len(group), half)]
        order: list[int] = []
        rng = random.Random(seed)
        while len(order) < settings.epochs * len(units):
            rng.shuffle(parts)
            order += [index for part in parts for index in part]
        order = order[: max(1, round(settings.epochs * len(units)))]
        size = settings.batch_size
        self._batches = [order[i : i + size] for i in range(0, len(order), size)]
        self._deal_out(range(len(units), len(self.units)), settings.epochs, rng)

    def _deal_out(self, more: Sequence[int], epochs: float, rng: random.Random) -> None:
        dealt: list[int] = []
        while len(dealt) < epochs * len(more):
            dealt += rng.sample(more, len(more))
        dealt = dealt[: round(epochs * len(more))]
        cuts = [len(dealt) * k // len(self._batches) for k in range(len(self._batches) + 1)]
        for batch, (start, end) in zip(self._batches, pairwise(cuts), strict=True):
            batch += dealt[start:end]

    @property
    def steps(self) -> int:
        return len(self._batches)

    def __len__(self) -> int:
        return len(self._batches) * self._processes

    def __getitem__(self, item: int) -> Share:
        batch = sorted(self._batches[item // self._processes], key=lambda i: self.units[i][0].ids)
        cuts = [len(batch) * part // self._processes for part in range(self._processes + 1)]
        shares = [
            list(make_packs(((i, self.units[i]) for i in batch[start:end]), self.token_budget))
            for start, end in pairwise(cuts)
        ]
        mine = shares[item % self._processes]
        fill = max(len(share) for share in shares) - len(mine)
        filler = next(pack for share in shares for pack in share)
        count = sum(self._weigh(pack) for share in shares for pack in share)
        return Share((*mine, *[filler] * fill), len(mine), count)


class PackedTrainer(Trainer):  # type: ignore[misc]
    """Subclasses say what a pack costs (`pack_loss`) and what to do before the first step (`begin`)."""

    def __init__(
        self,
        model: Any,
        batches: PackedBatches,
        arguments: TrainingArguments,
        progress: Progress,
        warn: Callable[[str], None],
    ) -> None:
        if arguments.use_cpu:
            keep_freed_memory()
        arguments._n_gpu = 1  # several GPUs mean several processes here; DataParallel would drop work
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=batches,
            data_collator=lambda items: items[0],
            callbacks=[_Begin(self.begin), _Report(progress)],
        )
        self.remove_callback(PrinterCallback)
        self.score: Score = packed_logprobs
        self.warn = warn
        self._sums: dict[str, float] = {}

    def begin(self) -> None:
        """With the model as it will be trained (sharded, perhaps): decide how it is scored."""
        batches: PackedBatches = self.train_dataset
        mixed = self.accelerator.mixed_precision != "no"
        scoring = pick_scoring(self.model, batches.units, batches.token_budget, mixed)
        attention = self.model.config._attn_implementation
        decided = gather_object([(attention, scoring.unsuited)])  # one way for all, or their packs differ
        unsuited = next((why for _, why in decided if why), "")
        if unsuited and not scoring.unsuited:
            scoring = plain_scoring(unsuited)
        elif len({name for name, _ in decided}) > 1:
            self.model.set_attn_implementation("sdpa")
        self.score, batches.token_budget = scoring.score, scoring.token_budget
        if scoring.unsuited:
            self.warn(f"sequences are scored one by one, without packing: {scoring.unsuited}")

    def pack_loss(self, model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, float]]:
        """The sum of the losses in a pack and the sums of its metrics."""
        raise NotImplementedError

    def training_step(self, model: Any, inputs: Share, num_items_in_batch: object = None) -> torch.Tensor:
        """Forward and backward over this process' packs, one at a time."""
        start = time.perf_counter()
        model.train()
        total = torch.zeros((), device=self.args.device)
        sums: dict[str, float] = {}
        tokens = 0
        for number, pack in enumerate(inputs.packs):
            weight = float(number < inputs.real) / inputs.mean_over
            last = number == len(inputs.packs) - 1
            # FSDP2 would keep whole gradients between the packs
            hold = not last and not getattr(self.accelerator, "is_fsdp2", False)
            with self.accelerator.no_sync(model) if hold else nullcontext():
                loss, metrics = self.pack_loss(model, pack)
                # gradients are averaged over the processes, the batch's mean is over all of them
                self.accelerator.backward(loss * weight * self.args.world_size)
            total += loss.detach() * weight
            tokens += len(pack.input_ids)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value * weight
        names = sorted(sums)
        mine = torch.tensor([total.item(), *(sums[name] for name in names)], device=total.device)
        gathered: torch.Tensor = self.accelerator.reduce(mine, reduction="sum")
        if not torch.isfinite(gathered[0]):
            raise self._diverged(f"the loss is {gathered[0].item()}")
        self._sums = dict(zip(names, gathered[1:].tolist(), strict=True))
        seconds = time.perf_counter() - start
        self._sums["tokens_per_second"] = tokens * self.args.world_size / seconds
        return gathered[0]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the batch's own metrics to what the Trainer logs."""
        super().log({**logs, **self._sums} if "loss" in logs else logs, *args, **kwargs)

    def _diverged(self, what: str) -> ModelError:
        return ModelError(
            f"{what} at step {self.state.global_step + 1}; lower learning_rate or train in float32; the last "
            f"good checkpoint stays in {self.args.output_dir}"
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
    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begin()


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs and state.is_world_process_zero:
            self._progress(state.global_step, state.max_steps, logs)


def training_arguments(
    settings: TrainSettings, steps: int, folder: Path, seed: int, device: torch.device
) -> TrainingArguments:
    """What the Trainer needs to know; checkpoints go to `folder`. Raises ModelError for a tracker that is not
    installed."""
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
    """Where weights are float32 or 4 bits for the optimizer's sake, the passes need not be."""
    apart = settings.lora is None or settings.lora.quantize is not None
    return apart and pick_dtype(settings.dtype, device) == torch.bfloat16


def train(trainer: PackedTrainer, fingerprint: str) -> list[dict[str, float]]:
    """Train to the end, from the newest whole checkpoint of the same work if there is one.

    `fingerprint` says what the work is: checkpoints of other work are moved to NAME.stale. Returns
    the metrics of every optimizer step.
    """
    folder = Path(trainer.args.output_dir)
    mark = folder / "fingerprint"
    if trainer.accelerator.is_main_process and (
        not mark.is_file() or mark.read_text(encoding="utf-8") != fingerprint
    ):
        move_aside(folder)
        write_atomic(mark, fingerprint)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def work_identity(settings: TrainSettings) -> dict[str, Any]:
    """The settings that decide what the training steps are."""
    aside = {"report_to", "save_steps", "serving_dtype", "guards"}
    return settings.model_dump(exclude=aside)


def process_count() -> int:
    """How many processes train together (torchrun and accelerate say so in the environment)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def work_folder(out: Path) -> Path:
    """Where checkpoints stand while `out` is in the making."""
    return out.with_name(out.name + ".work")


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: the Trainer writes trainer_state.json last."""
    whole = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            whole.append((int(json.loads(state.read_text())["global_step"]), str(state.parent)))
        except (ValueError, KeyError):
            continue
    return max(whole)[1] if whole else None
