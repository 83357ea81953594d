"""Supervised fine-tuning of M_0 on {messages, response} rows: loss on the response only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stepagent.config.settings import TrainSettings
from stepagent.errors import DataError
from stepagent.files.runs import hash_data, hash_path
from stepagent.models.loading import pick_device, position_limit
from stepagent.models.tokenizer import load_tokenizer, render
from stepagent.optimize.adapters import load_trainable
from stepagent.optimize.merge import refuse_existing, save_merged
from stepagent.optimize.packing import Pack, Target, Unit
from stepagent.optimize.trainer import (
    PackedBatches,
    PackedTrainer,
    Progress,
    process_count,
    train,
    training_arguments,
    work_folder,
    work_identity,
)
from stepagent.types import Message


@dataclass(frozen=True, slots=True)
class SftRow:
    """One training example: chat turns, and the reply to learn."""

    messages: tuple[Message, ...]
    response: str


class _SftTrainer(PackedTrainer):
    """Mean negative log-likelihood per response token of the global batch."""

    def pack_loss(self, model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, float]]:
        return -self.score(model, pack).sum(), {}


def encode(tokenizer: Any, row: SftRow) -> Target:
    """The rendered chat turns, then the response and the end-of-turn token, which carry the loss."""
    context = tokenizer(render(tokenizer, row.messages), add_special_tokens=False)["input_ids"]
    response = tokenizer(row.response, add_special_tokens=False)["input_ids"]
    return Target((*context, *response, tokenizer.eos_token_id), len(context))


def sft(
    model: str | Path,
    rows: Sequence[SftRow],
    out: Path,
    settings: TrainSettings,
    seed: int,
    progress: Progress,
    warn: Callable[[str], None],
) -> dict[str, float]:
    """Train `model` on `rows` and write the merged result to `out`, which must not exist yet.

    Rows longer than the window (or `max_context` tokens) are set aside and counted. Returns counts and
    the first and last loss. Raises DataError for unusable rows and ModelError for an unusable model.
    """
    tokenizer = load_tokenizer(model)
    targets = [encode(tokenizer, row) for row in rows]
    return train_targets(model, targets, out, settings, seed, progress, warn)


def train_targets(
    model: str | Path,
    targets: Sequence[Target],
    out: Path,
    settings: TrainSettings,
    seed: int,
    progress: Progress,
    warn: Callable[[str], None],
) -> dict[str, float]:
    """Maximum likelihood of the targets' scored tokens; see `sft`."""
    refuse_existing(out)
    if not targets:
        raise DataError("no training rows; check the IFT and EFT files")
    device = pick_device()
    tokenizer = load_tokenizer(model)
    torch.manual_seed(seed)
    loaded = load_trainable(model, settings, device)
    limit = settings.max_context or position_limit(loaded.config)
    units: list[Unit] = [(target,) for target in targets if len(target.ids) <= limit]
    if not units:
        raise DataError(f"every training row is longer than {limit} tokens; shorten the solutions")
    batches = PackedBatches(
        units,
        range(len(units)),
        settings,
        seed,
        weigh=lambda pack: len(pack.member_edge),
        processes=process_count(),
    )
    arguments = training_arguments(settings, batches.steps, work_folder(out), seed, device)
    trainer = _SftTrainer(loaded, batches, arguments, progress, warn)
    history = train(
        trainer, hash_data([work_identity(settings), seed, hash_path(Path(model)), [t.ids for t in targets]])
    )
    probes = [unit[0].ids for unit in units[:8]]
    made_from = {"method": "supervised fine-tuning", "rows": len(units)}
    proof = save_merged(trainer.accelerator, loaded, tokenizer, model, out, probes, settings, made_from)
    return {
        "rows": len(units),
        "aside: longer than the model's window": len(targets) - len(units),
        "steps": batches.steps,
        "loss_first": history[0]["loss"],
        "loss_last": history[-1]["loss"],
        **proof,
    }
