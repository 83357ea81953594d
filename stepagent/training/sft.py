"""Supervised fine-tuning of M_0 on {messages, response} rows: loss on the response only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stepagent.config.settings import TrainSettings
from stepagent.errors import DataError, ModelError
from stepagent.files.runs import hash_data
from stepagent.models.folders import model_identity
from stepagent.models.loading import pick_device
from stepagent.models.spans import context_limit
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.adapters import load_trainable
from stepagent.training.batches import PackedBatches
from stepagent.training.environment import is_main_process, prepare_environment, process_count
from stepagent.training.merge import TrainedModel, refuse_existing, save_merged
from stepagent.training.packing import Pack, Target, Unit
from stepagent.training.rehearsal import rehearse
from stepagent.training.trainer import (
    Monitor,
    PackedTrainer,
    train,
    training_arguments,
    work_folder,
    work_identity,
)
from stepagent.types import Message


@dataclass(frozen=True, slots=True)
class SftRow:
    """A training example: chat turns, and the reply to learn."""

    messages: tuple[Message, ...]
    response: str


class _SftTrainer(PackedTrainer):
    """Trainer on the mean negative log-likelihood (nats) per response token of the global batch."""

    def pack_loss(self, model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, float]]:
        return -self.score(model, pack).sum(), {}


def encode(tokenizer: ChatTokenizer, row: SftRow) -> Target:
    """Return the ids of the rendered chat turns, then those of the response and the end-of-turn token, which
    carry the loss."""
    context = tokenizer.render(row.messages)
    ids = tokenizer.ids(context)
    return Target((*ids, *tokenizer.reply_ids(context, row.response)), len(ids))


def sft(
    model: str | Path,
    rows: Sequence[SftRow],
    out: Path,
    *,
    settings: TrainSettings,
    seed: int,
    monitor: Monitor,
) -> dict[str, float]:
    """Train `model` on `rows` and write the merged result to `out`, which must not exist yet.

    Rows longer than the model's window (or settings.max_context tokens) are set aside and counted. Returns
    the counts, the first and the last loss, and the figures of `save_merged`. Raises DataError if no row is
    usable, ModelError for an unusable model or an `out` that exists, and ParityError as `save_merged` does.
    """
    tokenizer = ChatTokenizer(model)
    targets = [encode(tokenizer, row) for row in rows]
    return train_targets(model, targets, out, settings=settings, seed=seed, monitor=monitor)


def train_targets(
    model: str | Path,
    targets: Sequence[Target],
    out: Path,
    *,
    settings: TrainSettings,
    seed: int,
    monitor: Monitor,
) -> dict[str, float]:
    """Train `model` to maximise the likelihood of the targets' scored tokens; otherwise as `sft`."""
    refuse_existing(out)
    prepare_environment()
    if not targets:
        raise DataError("no training rows; add some to the files of init.ift and init.eft")
    device = pick_device()
    tokenizer = ChatTokenizer(model)
    torch.manual_seed(seed)
    trainable = load_trainable(model, settings, device)
    limit = context_limit(trainable.config, settings.max_context)
    vocabulary = trainable.get_input_embeddings().weight.shape[0]
    if (largest := max(max(target.ids) for target in targets)) >= vocabulary:
        raise ModelError(
            f"{model}: the tokenizer writes token {largest}, and the model has {vocabulary} embeddings; take both from "
            "one model"
        )
    units: list[Unit] = [(target,) for target in targets if len(target.ids) <= limit]
    if not units:
        raise DataError(f"every training row is longer than {limit} tokens; shorten the solutions")
    batches = PackedBatches(
        units,
        range(len(units)),
        settings,
        seed=seed,
        weigh=lambda pack: len(pack.member_edge),
        processes=process_count(),
    )
    trained = TrainedModel(trainable, tokenizer, model, settings)
    probes = [unit[0].ids for unit in units[:8]]
    if is_main_process():
        rehearse(trained, out, probes=probes)
    arguments = training_arguments(settings, batches.steps, work_folder(out), seed=seed, device=device)
    trainer = _SftTrainer(trainable, batches, arguments, monitor=monitor)
    history = train(
        trainer, hash_data([work_identity(settings), seed, model_identity(model), [t.ids for t in targets]])
    )
    origin = {"method": "supervised fine-tuning", "rows": len(units)}
    proof = save_merged(trainer.accelerator, trained, out, probes=probes, made_from=origin)
    return {
        "rows": len(units),
        "aside: longer than the model's window": len(targets) - len(units),
        "steps": batches.steps,
        "loss_first": history[0]["loss"],
        "loss_last": history[-1]["loss"],
        **proof,
    }
