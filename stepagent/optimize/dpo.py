"""Step-wise DPO on preferences.jsonl (arXiv 2503.03746, section 3): adapter on against adapter off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stepagent.checkpoints import (
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    tokenizer_sha256,
)
from stepagent.config import OptimizeSettings
from stepagent.errors import DataError, ModelError
from stepagent.jsonl import read_rows
from stepagent.optimize.guards import Guards
from stepagent.optimize.loss import dpo_loss
from stepagent.optimize.merge import save_merged
from stepagent.optimize.packing import (
    Pack,
    Score,
    Target,
    Unit,
    make_packs,
    pick_score,
)
from stepagent.optimize.trainer import (
    PackedBatches,
    PackedTrainer,
    Progress,
    add_adapter,
    process_count,
    train,
    training_arguments,
    work_folder,
)
from stepagent.runs import hash_data, hash_file
from stepagent.types import StepPreference


class _DpoTrainer(PackedTrainer):
    """Mean DPO loss over the pairs of the global batch."""

    def __init__(
        self,
        *args: Any,
        settings: OptimizeSettings,
        reference: torch.Tensor,
        smoothing: torch.Tensor,
        guards: Guards,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(*args)
        self._settings = settings
        self._reference = reference
        self._smoothing = smoothing
        self._guards = guards
        self._warn = warn

    def pack_loss(self, model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, float]]:
        settings = self._settings
        policy = self.score(model, pack).view(-1, 2)
        reference = self._reference[list(pack.units)].to(policy)
        lengths = pack.lengths().view(-1, 2).to(policy)
        scale = lengths if settings.length_normalized else torch.ones_like(lengths)
        (chosen, rejected), (ref_chosen, ref_rejected) = (
            (side / scale).unbind(1) for side in (policy, reference)
        )
        smoothing = self._smoothing[list(pack.units)].to(policy)
        losses, metrics = dpo_loss(
            chosen, rejected, ref_chosen, ref_rejected, settings.beta, settings.loss, smoothing
        )
        losses = losses - settings.nll_alpha * policy[:, 0] / lengths[:, 0]
        metrics["chosen_reference"] = ref_chosen
        return losses.sum(), {name: value.sum().item() for name, value in metrics.items()}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log(logs, *args, **kwargs)
        if "loss" in logs:
            for warning in self._guards.check_step(self.state.global_step, self._sums):
                self._warn(warning)


@dataclass(frozen=True, slots=True)
class Optimized:
    """Counts and the means of the last quarter's metrics; pairs set aside are counted under their reason.
    `warnings` are what the guards said."""

    figures: dict[str, float]
    warnings: tuple[str, ...]


def optimize(
    model: str | Path,
    data: Path,
    out: Path,
    settings: OptimizeSettings,
    seed: int,
    progress: Progress,
) -> Optimized:
    """Train `model` (M_i) on preference pairs and write the merged M_{i+1} to `out`.

    Raises DataError for an empty or unusable file, ModelError or ParityError for the model.
    """
    device = pick_device()
    tokenizer = load_tokenizer(model)
    torch.manual_seed(seed)
    loaded = load_model(model, pick_dtype(settings.dtype, device), device)
    limit = settings.max_context or int(getattr(loaded.config, "max_position_embeddings", 1 << 20))
    units, groups, margins, aside = load_pairs(data, tokenizer, limit)
    smoothing = (1 - torch.tensor(margins)).clamp(0, 0.5)
    if settings.lora:
        loaded = add_adapter(loaded, settings.lora)
    score, unsuited = pick_score(loaded, units, settings.token_budget)
    reference = reference_logprobs(loaded, units, settings.token_budget, score)
    batches = PackedBatches(
        units, groups, settings, seed, weigh=lambda pack: len(pack.units), processes=process_count()
    )
    guards = Guards(settings.guards, batches.steps)

    def warn(warning: str) -> None:
        if settings.guards.stop:
            raise ModelError(f"stopped, as guards.stop asks: {warning}")
        warnings.append(warning)

    warnings = [f"pairs are scored one by one, without packing: {unsuited}"] if unsuited else []
    for warning in guards.check_lengths(units):
        warn(warning)
    trainer = _DpoTrainer(
        loaded,
        batches,
        training_arguments(settings, batches.steps, work_folder(out), seed, device),
        score,
        progress,
        settings=settings,
        reference=reference,
        smoothing=smoothing if settings.margin_smoothing else torch.zeros_like(smoothing),
        guards=guards,
        warn=warn,
    )
    history = train(trainer, hash_data([settings.model_dump(), seed, hash_file(data), str(model)]))
    parity = save_merged(trainer.accelerator, loaded, tokenizer, out, [unit[0].ids for unit in units[:8]])
    last = history[-max(1, len(history) // 4) :]
    means = {
        name: sum(entry[name] for entry in last) / len(last)
        for name in ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward", "kl")
    }
    counts = {"pairs": len(units), "steps": batches.steps, "parity": parity}
    figures = {**counts, **means, **{f"aside: {why}": count for why, count in aside.items()}}
    return Optimized(figures, tuple(warnings))


def reference_logprobs(model: Any, units: Sequence[Unit], token_budget: int, score: Score) -> torch.Tensor:
    """log pi_ref of every unit's (chosen, rejected), [units, 2]: the model with its adapter off, or as
    it is before full fine-tuning."""
    adapter_off = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    result = torch.zeros(len(units), 2)
    order = sorted(range(len(units)), key=lambda i: units[i][0].ids)
    model.eval()
    with torch.no_grad(), adapter_off:
        for pack in make_packs(((i, units[i]) for i in order), token_budget):
            result[list(pack.units)] = score(model, pack).view(-1, 2).float().cpu()
    return result


def load_pairs(
    data: Path, tokenizer: Any, max_context: int
) -> tuple[list[Unit], list[str], list[float], Counter[str]]:
    """The pairs of a preferences file as (chosen, rejected) targets, their problems and margins, and the
    counts of pairs set aside. Raises DataError for ids of another tokenizer or if no pair is usable."""
    rows = read_rows(data, StepPreference)
    if not rows:
        raise DataError(f"{data}: no preference pairs; search more problems or sample hotter")
    sha256 = tokenizer_sha256(tokenizer)
    units: list[Unit] = []
    groups: list[str] = []
    margins: list[float] = []
    aside: Counter[str] = Counter()
    for line, row in enumerate(rows, start=1):
        if row.tokenizer_sha256 not in (None, sha256):
            raise DataError.at(data, line, "token ids of another tokenizer; search again with this model")
        unit = _unit(row, tokenizer)
        if unit[0].ids == unit[1].ids:
            aside["chosen equals rejected"] += 1
        elif any(target.start == len(target.ids) for target in unit):
            aside["empty step"] += 1
        elif max(len(target.ids) for target in unit) > max_context:
            aside["longer than the model's window"] += 1
        else:
            units.append(unit)
            groups.append(row.problem_id)
            margins.append(row.margin)
    if not units:
        raise DataError(f"{data}: no usable pair ({dict(aside)})")
    return units, groups, margins, aside


def _unit(row: StepPreference, tokenizer: Any) -> Unit:
    """Ids as they were sampled; text only where a backend gave no ids."""

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    prompt = row.prompt_ids if row.prompt_ids is not None else encode(row.prompt)
    targets = []
    for text, ids, ends in (
        (row.chosen, row.chosen_ids, row.chosen_ends),
        (row.rejected, row.rejected_ids, row.rejected_ends),
    ):
        step = ids if ids is not None else encode(text) + (tokenizer.eos_token_id,) * ends
        targets.append(Target((*prompt, *step), len(prompt)))
    return tuple(targets)
