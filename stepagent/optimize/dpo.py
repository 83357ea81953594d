"""Step-wise DPO on preferences.jsonl (arXiv 2503.03746, section 3): adapter on against adapter off."""

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
from stepagent.files.runs import hash_data, hash_path
from stepagent.models.loading import pick_device, position_limit, writing
from stepagent.models.tokenizer import load_tokenizer
from stepagent.optimize.adapters import load_trainable
from stepagent.optimize.guards import Guards
from stepagent.optimize.loss import dpo_loss
from stepagent.optimize.merge import refuse_existing, save_merged
from stepagent.optimize.packing import Pack, Unit, make_packs
from stepagent.optimize.pairs import load_pairs
from stepagent.optimize.scoring import Score
from stepagent.optimize.sft import SftRow, encode
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


class DpoTrainer(PackedTrainer):
    """Mean DPO loss over the pairs of the global batch; beside it the mean NLL per token of replayed rows,
    each of which weighs as `replay` says against a pair. Units from `pairs` on are such rows."""

    def __init__(
        self,
        *args: Any,
        settings: OptimizeSettings,
        smoothing: torch.Tensor,
        guards: Guards,
        guard: Callable[[str], None],
        replay: float = 0.0,
    ) -> None:
        super().__init__(*args)
        self._settings = settings
        self._reference = torch.empty(0)
        self._smoothing = smoothing
        self._pairs = len(smoothing)
        self._replay = replay
        self._guards = guards
        self._guard = guard

    def begin(self) -> None:
        super().begin()
        self.score_reference()

    def score_reference(self) -> None:
        """Once; on resuming it is read back, since a fully trained model is no longer its own reference."""
        kept = Path(self.args.output_dir) / "reference.pt"
        main = self.accelerator.is_main_process
        found = [torch.load(kept, weights_only=True) if main and kept.is_file() else None]
        if (reference := broadcast_object_list(found)[0]) is not None:
            self._reference = reference
            return
        batches: PackedBatches = self.train_dataset
        self._reference = reference_logprobs(
            self.model, batches.units[: self._pairs], batches.token_budget, self.score, self.accelerator
        )
        if main:
            part = kept.with_suffix(".part")
            kept.parent.mkdir(parents=True, exist_ok=True)
            with writing(kept.parent):
                torch.save(self._reference, part)
            part.replace(kept)

    def pack_loss(self, model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, float]]:
        settings = self._settings
        scores = self.score(model, pack)
        every = pack.lengths().to(scores)
        pairs = [unit for unit in pack.units if unit < self._pairs]
        paired = torch.tensor(
            [unit < self._pairs for unit in pack.units for _ in range(1 + (unit < self._pairs))]
        )
        replayed = -(scores[~paired] / every[~paired])
        policy, lengths = scores[paired].view(-1, 2), every[paired].view(-1, 2)
        reference = self._reference[pairs].to(policy)
        scale = lengths if settings.length_normalized else torch.ones_like(lengths)
        (chosen, rejected), (ref_chosen, ref_rejected) = (
            (side / scale).unbind(1) for side in (policy, reference)
        )
        smoothing = self._smoothing[pairs].to(policy)
        losses, metrics = dpo_loss(
            chosen, rejected, ref_chosen, ref_rejected, settings.beta, settings.loss, smoothing
        )
        losses = losses - settings.nll_alpha * policy[:, 0] / lengths[:, 0]
        metrics["chosen_logp"], metrics["rejected_logp"] = policy.detach().unbind(1)
        metrics["chosen_reference"] = reference[:, 0]
        if self._replay:
            metrics["replay_loss"] = self._replay * replayed.detach()
        total = losses.sum() + self._replay * replayed.sum()
        return total, {name: value.sum().item() for name, value in metrics.items()}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log(logs, *args, **kwargs)
        if "loss" in logs:
            for warning in self._guards.check_step(self.state.global_step, self._sums):
                self._guard(warning)


@dataclass(frozen=True, slots=True)
class Optimized:
    """Counts and the means of the last quarter's metrics; pairs set aside are counted under their reason.
    `warnings` are what the guards said."""

    figures: dict[str, float]
    warnings: tuple[str, ...]


def optimize(
    model: str | Path,
    data: str | Path,
    out: Path,
    settings: OptimizeSettings,
    seed: int,
    progress: Progress,
    solve: PromptTemplate | None = None,
    replay: Callable[[int], Sequence[SftRow]] | None = None,
    replay_weight: float = 1.0,
) -> Optimized:
    """Train `model` (M_i) on preference pairs and write the merged M_{i+1} to `out`.

    `data` is what `formats.read_preferences` takes; `solve` goes around a bare question. `replay` gives, for
    the number of pairs, rows whose NLL per token is learnt beside the pairs, so that the model forgets
    neither solving nor judging; a row weighs `replay_weight` against a pair.

    Raises DataError for an empty or unusable file, ModelError or ParityError for the model.
    """
    refuse_existing(out)
    device = pick_device()
    tokenizer = load_tokenizer(model)
    torch.manual_seed(seed)
    loaded = load_trainable(model, settings, device)
    window = settings.max_context or position_limit(loaded.config)
    pairs = load_pairs(data, tokenizer, window, loaded.get_input_embeddings().num_embeddings, solve)
    units = pairs.units
    rows = zip(units, pairs.problems, pairs.margins, strict=True)
    content = hash_data([[[(t.ids, t.start) for t in unit], name, margin] for unit, name, margin in rows])
    rows_again = replay(len(units)) if replay else ()
    replayed = [(target,) for row in rows_again if len((target := encode(tokenizer, row)).ids) <= window]
    smoothing = (1 - torch.tensor(pairs.margins)).clamp(0, 0.5)
    batches = PackedBatches(
        units,
        pairs.problems,
        settings,
        seed,
        weigh=lambda pack: sum(unit < len(units) for unit in pack.units),
        processes=process_count(),
        beside=replayed,
    )
    guards = Guards(settings.guards, batches.steps)
    warnings: list[str] = []

    def guard(warning: str) -> None:
        if settings.guards.stop:
            raise ModelError(f"stopped, as guards.stop asks: {warning}")
        warnings.append(warning)

    for warning in guards.check_lengths(units):
        guard(warning)
    trainer = DpoTrainer(
        loaded,
        batches,
        training_arguments(settings, batches.steps, work_folder(out), seed, device),
        progress,
        warnings.append,
        settings=settings,
        smoothing=smoothing if settings.margin_smoothing else torch.zeros_like(smoothing),
        replay=replay_weight if replayed else 0.0,
        guards=guards,
        guard=guard,
    )
    work = [work_identity(settings), seed, content, hash_path(Path(model))]
    if replayed:
        work.append([replay_weight, [target.ids for (target,) in replayed]])
    history = train(trainer, hash_data(work))
    probes = [unit[0].ids for unit in units[:8]]
    rounds = ", ".join(str(number) for number in sorted(pairs.rounds)) or "no search"
    made_from = {
        "method": "step-wise DPO (arXiv 2503.03746)",
        "preference pairs": f"{len(units)} of round {rounds} (sha256 {content[:12]})",
    }
    proof = save_merged(trainer.accelerator, loaded, tokenizer, model, out, probes, settings, made_from)
    last = history[-max(1, len(history) // 4) :]
    means = {
        name: sum(entry[name] for entry in last) / len(last)
        for name in ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward", "kl")
    }
    counts = {"pairs": len(units), "steps": batches.steps, **proof}
    if rows_again:
        counts["replayed rows"] = len(replayed)
        counts["aside: replayed rows longer than the window"] = len(rows_again) - len(replayed)
    if pairs.moved:
        counts["boundaries moved to a token's edge"] = pairs.moved
    figures = {**counts, **means, **{f"aside: {why}": count for why, count in pairs.aside.items()}}
    return Optimized(figures, tuple(warnings))


def reference_logprobs(
    model: Any, units: Sequence[Unit], token_budget: int, score: Score, accelerator: Any = None
) -> torch.Tensor:
    """log pi_ref of every unit's (chosen, rejected), [units, 2]: the model with its adapter off, or as
    it is before full fine-tuning. Several processes share the work, in equally many forward passes."""
    adapter_off = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    mine, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    order = sorted(range(len(units)), key=lambda i: units[i][0].ids)
    packs = list(make_packs(((i, units[i]) for i in order), token_budget))
    result = torch.zeros(len(units), 2, device=next(model.parameters()).device)
    model.eval()
    with torch.no_grad(), adapter_off:
        for first in range(0, len(packs), processes):
            pack = packs[min(first + mine, len(packs) - 1)]
            scored = score(model, pack).view(-1, 2).to(result)
            if first + mine < len(packs):
                result[list(pack.units)] = scored
    whole: torch.Tensor = accelerator.reduce(result, "sum") if accelerator else result
    return whole.cpu()
