"""Step-wise DPO on preferences.jsonl (arXiv 2503.03746, section 3). The reference is the model without its
adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from stepagent.config.prompts import PromptTemplate
from stepagent.config.settings import OptimizeSettings
from stepagent.errors import ModelError
from stepagent.files.runs import hash_data
from stepagent.models.folders import model_identity
from stepagent.models.loading import pick_device, writing
from stepagent.models.spans import context_limit
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.adapters import load_trainable
from stepagent.training.batches import PackedBatches
from stepagent.training.environment import is_main_process, prepare_environment, process_count
from stepagent.training.guards import Guards
from stepagent.training.loss import dpo_loss
from stepagent.training.merge import TrainedModel, refuse_existing, save_merged
from stepagent.training.packing import Pack, Unit
from stepagent.training.pairs import load_pairs
from stepagent.training.rehearsal import rehearse
from stepagent.training.scoring import Scoring
from stepagent.training.sft import SftRow, encode
from stepagent.training.trainer import (
    Monitor,
    PackedTrainer,
    train,
    training_arguments,
    work_folder,
    work_identity,
)


class DpoTrainer(PackedTrainer):
    """Trainer on the mean DPO loss over the pairs of the global batch, by their `weights` [pairs]. Replayed rows add
    `replay` times their mean NLL per token, each row counted against one pair. The first units are the pairs, as many
    as `smoothing` [pairs] has entries; the units after them are replayed rows. A warning of the guards goes to
    the monitor, or stops the training with ModelError if settings.guards.stop is set."""

    def __init__(
        self,
        *args: Any,
        monitor: Monitor,
        settings: OptimizeSettings,
        smoothing: torch.Tensor,
        weights: torch.Tensor,
        replay: float = 0.0,
    ) -> None:
        super().__init__(*args, monitor=monitor)
        self._settings = settings
        self._reference = torch.empty(0)
        self._smoothing = smoothing
        self._weights = weights
        self._pairs = len(smoothing)
        self._replay = replay
        self._guards = Guards(settings.guards, self.train_dataset.steps)

    def begin(self) -> None:
        """Check the pairs' lengths, decide how the model is scored, and score the reference."""
        self._guard(self._guards.check_lengths(self.train_dataset.units[: self._pairs]))
        super().begin()
        self.score_reference()

    def score_reference(self) -> None:
        """Compute the reference log-probabilities, or read them back when a run is resumed: a model that is
        trained fully is no longer its own reference."""
        file = Path(self.args.output_dir) / "reference.pt"
        is_main = self.accelerator.is_main_process
        contents = [torch.load(file, weights_only=True) if is_main and file.is_file() else None]
        if (reference := broadcast_object_list(contents)[0]) is not None:
            self._reference = reference
            return
        batches: PackedBatches = self.train_dataset
        units = batches.units[: self._pairs]
        self._reference = reference_logprobs(self.model, units, batches.scoring, self.accelerator)
        if is_main:
            part = file.with_suffix(".part")
            file.parent.mkdir(parents=True, exist_ok=True)
            with writing(file.parent):
                torch.save(self._reference, part)
            part.replace(file)

    def pack_loss(self, model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the summed loss of the pairs and replayed rows in a pack, and the sums of the metrics."""
        settings = self._settings
        scores = self.score(model, pack)
        lengths = pack.lengths().to(scores)
        pairs = [unit for unit in pack.units if unit < self._pairs]
        # A pair has two targets and a replayed row one: this marks, per target, whether it is a pair's.
        in_pair = torch.tensor([unit < self._pairs for unit in pack.units for _ in range(1 + (unit < self._pairs))])
        replay_losses = -(scores[~in_pair] / lengths[~in_pair])
        policy, pair_lengths = scores[in_pair].view(-1, 2), lengths[in_pair].view(-1, 2)
        reference = self._reference[pairs].to(policy)
        # Policy and reference are both divided, so a step's reward is its mean log-ratio per token: a long
        # step gains nothing by its length.
        scale = pair_lengths if settings.length_normalized else torch.ones_like(pair_lengths)
        smoothing = self._smoothing[pairs].to(policy)
        losses, metrics = dpo_loss(
            policy / scale, reference / scale, beta=settings.beta, kind=settings.loss, smoothing=smoothing
        )
        # DPO rewards the gap alone, which also grows if both steps become less likely: the NLL term holds the
        # chosen one up. It is per token whatever length_normalized, so that nll_alpha means the same.
        losses = losses - settings.nll_weight * policy[:, 0] / pair_lengths[:, 0]
        metrics["chosen_logp"], metrics["rejected_logp"] = policy.detach().unbind(1)
        metrics["chosen_reference"] = reference[:, 0]
        # Sums, not means: the Trainer divides by the weights of the whole batch, however it is packed.
        weights = self._weights[pairs].to(policy)
        total = (weights * losses).sum() + self._replay * replay_losses.sum()
        sums = {name: (weights * value).sum().item() for name, value in metrics.items()}
        if self._replay:
            sums["replay_loss"] = self._replay * replay_losses.detach().sum().item()
        return total, sums

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the metrics of a step, and let the guards look at them."""
        super().log(logs, *args, **kwargs)
        if "loss" in logs:
            self._guard(self._guards.check_step(self.state.global_step, self._sums))

    def _guard(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            if self._settings.guards.stop:
                raise ModelError(f"stopped, as guards.stop asks: {warning}")
            self.warn(warning)


@dataclass(frozen=True, slots=True)
class Replay:
    """Rows whose NLL per token is learnt beside the pairs, so that the model forgets neither solving nor judging.
    `draw` returns them for a number of pairs; a row weighs `weight` against a pair."""

    draw: Callable[[int], Sequence[SftRow]]
    weight: float = 1.0


def optimize_model(
    model: str | Path,
    data: str | Path,
    out: Path,
    *,
    settings: OptimizeSettings,
    seed: int,
    monitor: Monitor,
    solve: PromptTemplate | None = None,
    replay: Replay | None = None,
) -> dict[str, float]:
    """Train `model` (M_i) on preference pairs and write the merged M_{i+1} to `out`.

    `data` is a file or data set that `read_preferences` takes; a bare question is put into the prompt
    `solve`. `monitor` receives every optimizer step and warning. Returns
    counts (of pairs set aside too, by reason) and the means of the metrics over the last quarter of the steps.

    Raises DataError for a file without a usable pair; ModelError for an unusable model, an `out` that exists,
    a loss that diverges, or a guard that stops the run; ParityError if the merged model differs.
    """
    refuse_existing(out)
    prepare_environment()
    device = pick_device()
    tokenizer = ChatTokenizer(model)
    torch.manual_seed(seed)
    trainable = load_trainable(model, settings, device)
    window = context_limit(trainable.config, settings.max_context)
    pairs = load_pairs(data, tokenizer, window, vocabulary=trainable.get_input_embeddings().num_embeddings, solve=solve)
    units = pairs.units
    rows = zip(units, pairs.problems, pairs.margins, pairs.weights, strict=True)
    data_sha256 = hash_data([[[(t.ids, t.start) for t in unit], *row] for unit, *row in rows])
    replay_rows = replay.draw(len(units)) if replay else ()
    replay_targets = [encode(tokenizer, row) for row in replay_rows]
    replay_units = [(target,) for target in replay_targets if len(target.ids) <= window]
    smoothing = (1 - torch.tensor(pairs.margins)).clamp(0, 0.5)
    batches = PackedBatches(
        [*units, *replay_units],
        pairs.problems,
        settings,
        seed=seed,
        weigh=lambda pack: sum(pairs.weights[unit] for unit in pack.units if unit < len(units)),
        processes=process_count(),
    )
    trained = TrainedModel(trainable, tokenizer, model, settings)
    probes = [unit[0].ids for unit in units[:8]]
    if is_main_process():
        rehearse(trained, out, probes=probes)
    trainer = DpoTrainer(
        trainable,
        batches,
        training_arguments(settings, batches.steps, work_folder(out), seed=seed, device=device),
        monitor=monitor,
        settings=settings,
        smoothing=smoothing if settings.margin_smoothing else torch.zeros_like(smoothing),
        weights=torch.tensor(pairs.weights),
        replay=replay.weight if replay and replay_units else 0.0,
    )
    work = [work_identity(settings), seed, data_sha256, model_identity(model)]
    if replay and replay_units:
        work.append([replay.weight, [target.ids for (target,) in replay_units]])
    history = train(trainer, hash_data(work))
    probes = [unit[0].ids for unit in units[:8]]
    rounds = ", ".join(str(number) for number in sorted(pairs.rounds)) or "no search"
    origin = {
        "method": "step-wise DPO (arXiv 2503.03746)",
        "preference pairs": f"{len(units)} of round {rounds} (sha256 {data_sha256[:12]})",
    }
    proof = save_merged(trainer.accelerator, trained, out, probes=probes, made_from=origin)
    last_quarter = history[-max(1, len(history) // 4) :]
    means = {
        name: sum(entry[name] for entry in last_quarter) / len(last_quarter)
        for name in ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward", "kl", "tokens_saved")
    }
    counts = {"pairs": len(units), "steps": batches.steps, **proof}
    if replay_rows:
        counts["replayed rows"] = len(replay_units)
        counts["aside: replayed rows longer than the window"] = len(replay_rows) - len(replay_units)
    if pairs.moved_boundaries:
        counts["boundaries moved to a token's edge"] = pairs.moved_boundaries
    return {**counts, **means, **{f"aside: {reason}": count for reason, count in pairs.aside.items()}}


def reference_logprobs(model: Any, units: Sequence[Unit], scoring: Scoring, accelerator: Any = None) -> torch.Tensor:
    """Return log pi_ref (nats) of every unit's (chosen, rejected) steps, [units, 2], on the CPU. The
    reference is the model with its adapter off, or, before full fine-tuning, the model itself. Several
    processes share the work, in equally many forward passes."""
    adapter_off = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    order = sorted(range(len(units)), key=lambda i: units[i][0].ids)
    packs = list(scoring.packs((i, units[i]) for i in order))
    logprobs = torch.zeros(len(units), 2, device=next(model.parameters()).device)
    model.eval()
    with torch.no_grad(), adapter_off:
        for first in range(0, len(packs), processes):
            index = first + rank
            pack = packs[min(index, len(packs) - 1)]
            scores = scoring.score(model, pack).view(-1, 2).to(logprobs)
            if index < len(packs):
                logprobs[list(pack.units)] = scores
    total: torch.Tensor = accelerator.reduce(logprobs, "sum") if accelerator else logprobs
    return total.cpu()
