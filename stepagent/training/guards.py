"""Watch a step-DPO run for the ways in which it is known to go wrong; each warning names its remedy."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from stepagent.config.settings import GuardSettings
from stepagent.training.packing import Unit

_WINDOW = 10  # optimizer steps that the fall of the chosen log-probability is averaged over


class Guards:
    """The checks of one run of `steps` optimizer steps. Each warning is returned once."""

    def __init__(self, settings: GuardSettings, steps: int) -> None:
        self._settings = settings
        self._early_steps = max(3, steps // 10)
        self._recent_metrics: deque[Mapping[str, float]] = deque(maxlen=_WINDOW)
        self._past_warnings: set[str] = set()

    def check_step(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Return the new warnings after optimizer step `step` (from 1) with its mean metrics per pair."""
        self._recent_metrics.append(metrics)
        warnings: list[str] = []
        gains = [entry["chosen_logp"] - entry["chosen_reference"] for entry in self._recent_metrics]
        fall = -sum(gains) / len(gains)
        if fall > self._settings.chosen_fall:
            warnings += self._once(
                "fall",
                f"the chosen steps' log-probability fell by {fall:.1f} nats: the model unlearns both steps; "
                "raise optimize.nll_alpha or optimize.beta, or lower optimize.learning_rate",
            )
        if step <= self._early_steps and metrics["accuracy"] >= self._settings.saturation and step > 1:
            warnings += self._once(
                "saturated",
                f"{metrics['accuracy']:.0%} of pairs are ordered rightly after {step} steps: the pairs may "
                "differ in something trivial, or the learning rate is too high; look at some pairs, or "
                "lower optimize.learning_rate",
            )
        return warnings

    def check_lengths(self, units: Sequence[Unit]) -> list[str]:
        """Return a warning if the longer step wins far too often (arXiv 2403.19159)."""
        lengths = [tuple(len(target.ids) - target.start for target in unit) for unit in units]
        longer_wins = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
        if len(longer_wins) < 20:  # too few to tell a bias from chance
            return []
        if (share := sum(longer_wins) / len(longer_wins)) <= self._settings.longer_wins:
            return []
        return self._once(
            "length",
            f"the longer step wins {share:.0%} of {len(longer_wins)} pairs of unequal length: the judge may "
            "be rewarding length; set optimize.length_normalized=true, or look at the judge",
        )

    def _once(self, name: str, warning: str) -> list[str]:
        if name in self._past_warnings:
            return []
        self._past_warnings.add(name)
        return [warning]
