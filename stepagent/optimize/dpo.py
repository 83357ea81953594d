"""Step-wise DPO on preferences.jsonl (arXiv 2503.03746, section 3): adapter on against adapter off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
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
from stepagent.errors import DataError
from stepagent.jsonl import read_rows
from stepagent.optimize.loss import dpo_loss
from stepagent.optimize.merge import save_merged
from stepagent.optimize.packing import Pack, Target, Unit, make_packs, target_logprobs
from stepagent.optimize.trainer import PackedBatches, PackedTrainer, Progress, add_adapter
from stepagent.types import StepPreference


class _DpoTrainer(PackedTrainer):
    """Mean DPO loss over the pairs of the global batch."""

    def __init__(self, *args: Any, settings: OptimizeSettings, reference: torch.Tensor) -> None:
        super().__init__(*args)
        self._settings = settings
        self._reference = reference

    def pack_loss(self, model: Any, pack: Pack) -> tuple[torch.Tensor, dict[str, float]]:
        chosen, rejected = target_logprobs(model, pack).view(-1, 2).unbind(1)
        reference = self._reference[list(pack.units)].to(chosen)
        losses, metrics = dpo_loss(chosen, rejected, reference[:, 0], reference[:, 1], self._settings.beta)
        if self._settings.nll_alpha:
            lengths = pack.lengths().view(-1, 2)[:, 0].to(chosen)
            losses = losses - self._settings.nll_alpha * chosen / lengths
        return losses.sum(), {name: value.sum().item() for name, value in metrics.items()}

    def batch_count(self, packs: Sequence[Pack]) -> int:
        return sum(len(pack.units) for pack in packs)


def optimize(
    model: str | Path,
    data: Path,
    out: Path,
    settings: OptimizeSettings,
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """Train `model` (M_i) on preference pairs and write the merged M_{i+1} to `out`.

    Returns counts and the last metrics; pairs set aside are counted under their reason. Raises
    DataError for an empty or unusable file, ModelError or ParityError for the model.
    """
    device = pick_device()
    tokenizer = load_tokenizer(model)
    torch.manual_seed(seed)
    loaded = load_model(model, pick_dtype(settings.dtype, device), device)
    limit = settings.max_context or int(getattr(loaded.config, "max_position_embeddings", 1 << 20))
    units, groups, aside = load_pairs(data, tokenizer, limit)
    if settings.lora:
        loaded = add_adapter(loaded, settings.lora)
    reference = reference_logprobs(loaded, units, settings.token_budget)
    batches = PackedBatches(units, groups, settings.batch_size, settings.epochs, settings.token_budget, seed)
    work = out.with_name(out.name + ".work")
    trainer = _DpoTrainer(
        loaded, batches, settings, work, seed, progress, settings=settings, reference=reference
    )
    trainer.train()
    parity = save_merged(loaded, tokenizer, out, [unit[0].ids for unit in units[:8]])
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    last = history[-max(1, len(history) // 4) :]
    means = {
        name: sum(entry[name] for entry in last) / len(last)
        for name in ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward")
    }
    counts = {"pairs": len(units), "steps": len(batches), "parity": parity}
    return {**counts, **means, **{f"aside: {why}": count for why, count in aside.items()}}


def reference_logprobs(model: Any, units: Sequence[Unit], token_budget: int) -> torch.Tensor:
    """log pi_ref of every unit's (chosen, rejected), [units, 2]: the model with its adapter off, or as
    it is before full fine-tuning."""
    adapter_off = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    result = torch.zeros(len(units), 2)
    order = sorted(range(len(units)), key=lambda i: units[i][0].ids)
    model.eval()
    with torch.no_grad(), adapter_off:
        for pack in make_packs(((i, units[i]) for i in order), token_budget):
            result[list(pack.units)] = target_logprobs(model, pack).view(-1, 2).float().cpu()
    return result


def load_pairs(data: Path, tokenizer: Any, max_context: int) -> tuple[list[Unit], list[str], Counter[str]]:
    """The pairs of a preferences file as (chosen, rejected) targets, their problems, and the counts of
    pairs set aside. Raises DataError for ids of another tokenizer or a file without a usable pair."""
    rows = read_rows(data, StepPreference)
    if not rows:
        raise DataError(f"{data}: no preference pairs; search more problems or sample hotter")
    sha256 = tokenizer_sha256(tokenizer)
    units: list[Unit] = []
    groups: list[str] = []
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
    if not units:
        raise DataError(f"{data}: no usable pair ({dict(aside)})")
    return units, groups, aside


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
