"""Stage: M_i + preferences.jsonl -> M_{i+1}."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stepagent.config.prompts import PromptTemplate
from stepagent.config.settings import OptimizeSettings
from stepagent.console import bar, table, warn
from stepagent.optimize.dpo import optimize
from stepagent.optimize.sft import SftRow


def optimize_stage(
    model: str,
    data: str | Path,
    out: Path,
    settings: OptimizeSettings,
    seed: int,
    label: str,
    solve: PromptTemplate | None = None,
    replay: Callable[[int], Sequence[SftRow]] | None = None,
    replay_weight: float = 1.0,
) -> dict[str, object]:
    """Step-wise DPO with a progress bar and a closing table. Returns the figures and what the guards said."""
    with bar(f"step-DPO, {label}", None) as progress:

        def show(step: int, steps: int, logs: dict[str, float]) -> None:
            progress.total(steps)
            progress.advance(step, f"margin {logs['margin']:.2f} accuracy {logs['accuracy']:.2f}")

        report = optimize(model, data, out, settings, seed, show, solve, replay, replay_weight)
    table(f"Step-wise DPO, {label}", report.figures)
    warn(report.warnings)
    return {**report.figures, "warnings": list(report.warnings)}
