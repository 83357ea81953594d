"""Watch a step-DPO run for the ways in which it is known to go wrong; each warning says its remedy."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from stepagent.config.settings import GuardSettings
from stepagent.optimize.packing import Unit

_WINDOW = 10


class Guards:
    """Fed with every optimizer step's metrics; says each warning once."""

    def __init__(self, settings: GuardSettings, steps: int) -> None:
        self._settings = settings
        self._early = max(3, steps // 10)
        self._recent: deque[Mapping[str, float]] = deque(maxlen=_WINDOW)
        self._said: set[str] = set()

    def check_step(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """New warnings after optimizer step `step` (from 1)."""
        self._recent.append(metrics)
        warnings: list[str] = []
        fall = -sum(m["chosen_logp"] - m["chosen_reference"] for m in self._recent) / len(self._recent)
        if fall > self._settings.chosen_fall:
            warnings += self._once(
                "fall",
                f"the chosen steps' log-probability fell by {fall:.1f} nats: the model unlearns both steps; "
                "raise optimize.nll_alpha or optimize.beta, or lower optimize.learning_rate",
            )
        if step <= self._early and metrics["accuracy"] >= self._settings.saturation and step > 1:
            warnings += self._once(
                "saturated",
                f"{metrics['accuracy']:.0%} of pairs are ordered rightly after {step} steps: the pairs may "
                "differ in something trivial, or the learning rate is too high; look at some pairs, or "
                "lower optimize.learning_rate",
            )
        return warnings

    def check_lengths(self, units: Sequence[Unit]) -> list[str]:
        """A warning if the longer step wins far too often (arXiv 2403.19159)."""
        lengths = [tuple(len(target.ids) - target.start for target in unit) for unit in units]
        uneven = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
        if len(uneven) < 20 or (share := sum(uneven) / len(uneven)) <= self._settings.longer_wins:
            return []
        return self._once(
            "length",
            f"the longer step wins {share:.0%} of {len(uneven)} pairs of unequal length: the judge may be "
            "rewarding length; set optimize.length_normalized=true, or look at the judge",
        )

    def _once(self, name: str, warning: str) -> list[str]:
        if name in self._said:
            return []
        self._said.add(name)
        return [warning]
