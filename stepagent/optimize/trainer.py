"""A transformers.Trainer over packs: one optimizer step = one global batch of units, whatever the packing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from stepagent.config import LoraSettings, TrainSettings
from stepagent.errors import ModelError
from stepagent.optimize.packing import Pack, Unit, make_packs

Progress = Callable[[int, int, dict[str, float]], None]
"""(optimizer step, of how many, newest metrics)"""


class PackedBatches(Dataset[list[Pack]]):
    """All optimizer steps of a run in order: item i is the packs of global batch i.

    Groups (the units of one tree) are shuffled whole, anew each epoch, and cut into batches of
    `batch_size` units: a batch mixes trees, and what a tree shares stays together.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        groups: Sequence[object],
        batch_size: int,
        epochs: float,
        token_budget: int,
        seed: int,
    ) -> None:
        self._units = units
        self._token_budget = token_budget
        by_group: dict[object, list[int]] = {}
        for index, group in enumerate(groups):
            by_group.setdefault(group, []).append(index)
        order: list[int] = []
        rng = random.Random(seed)
        while len(order) < epochs * len(units):
            shuffled = list(by_group.values())
            rng.shuffle(shuffled)
            order += [index for group in shuffled for index in group]
        order = order[: max(1, round(epochs * len(units)))]
        self._batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> list[Pack]:
        batch = sorted(self._batches[index], key=lambda i: self._units[i][0].ids)
        return list(make_packs(((i, self._units[i]) for i in batch), self._token_budget))


class PackedTrainer(Trainer):  # type: ignore[misc]
    """Subclasses say what a pack costs (`pack_loss`) and how many things the batch mean is over."""

    batches: PackedBatches

    def __init__(
        self,
        model: Any,
        batches: PackedBatches,
        settings: TrainSettings,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> None:
        device = next(model.parameters()).device
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=1,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.scheduler,
            warmup_steps=round(settings.warmup_ratio * len(batches)),
            max_grad_norm=settings.max_grad_norm,
            weight_decay=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=device.type == "cuda",
            use_cpu=device.type == "cpu",
            seed=seed,
        )
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=batches,
            data_collator=lambda items: items[0],
            callbacks=[_Report(progress)],
        )
        self.remove_callback(PrinterCallback)
        self._sums: dict[str, float] = {}

    def pack_loss(self, model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, float]]:
        """The sum of the losses in a pack and the sums of its metrics."""
        raise NotImplementedError

    def batch_count(self, packs: Sequence[Pack]) -> int:
        """What the batch's loss and metrics are a mean over."""
        raise NotImplementedError

    def training_step(
        self, model: Any, inputs: list[Pack], num_items_in_batch: object = None
    ) -> torch.Tensor:
        """Forward and backward over the batch's packs, one at a time."""
        model.train()
        count = self.batch_count(inputs)
        total = torch.zeros((), device=self.args.device)
        sums: dict[str, float] = {}
        for pack in inputs:
            loss, metrics = self.pack_loss(model, pack)
            self.accelerator.backward(loss / count)
            total += loss.detach() / count
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value / count
        if not torch.isfinite(total):
            raise ModelError(
                f"the loss is {total.item()} at step {self.state.global_step + 1}; lower "
                "learning_rate or train in float32"
            )
        self._sums = sums
        return total

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the batch's own metrics to what the Trainer logs."""
        super().log({**logs, **self._sums} if "loss" in logs else logs, *args, **kwargs)


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            self._progress(state.global_step, state.max_steps, logs)


def add_adapter(model: Any, lora: LoraSettings) -> Any:
    """Wrap `model` in a fresh LoRA adapter; switched off, it is the reference model.

    Raises ModelError if the targets are not modules of the model.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    try:
        return get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=targets,
            ),
        )
    except ValueError as error:
        raise ModelError(f"lora.targets: {str(error).splitlines()[0]}") from None
