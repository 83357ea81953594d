"""Stage: M_0 + IFT {x, y} + EFT {x, s_1..s_{l-1}, s_l^1, s_l^2, judge} -> M_1."""

from __future__ import annotations

from pathlib import Path

from stepagent.config import Config, InitSettings
from stepagent.optimize.sft import SftRow, sft
from stepagent.pipeline.progress import bar, table, warn
from stepagent.pipeline.rows import judge_prompt_name, load_eft, load_ift, solve_prompt
from stepagent.prompting import load_judge_prompt


def sft_rows(config: Config, init: InitSettings) -> list[SftRow]:
    """IFT and EFT rows rendered with the very prompts that the generator and the judge will use.

    Raises ConfigError or DataError.
    """
    solve = solve_prompt(config.generator)
    judge, labels = load_judge_prompt(judge_prompt_name(config.judge))
    return [
        *(SftRow(solve.messages({"question": row.question}), row.text) for row in load_ift(init.ift)),
        *(SftRow(judge.messages(row.values()), row.judgement) for row in load_eft(init, labels.all())),
    ]


def initialize(config: Config, init: InitSettings, out: Path) -> None:
    """Train M_0 on the rows and write M_1 to `out`, which must not exist yet."""
    rows = sft_rows(config, init)
    warnings: list[str] = []
    with bar("init: SFT of M_0", None) as progress:

        def show(step: int, steps: int, logs: dict[str, float]) -> None:
            progress.total(steps)
            progress.advance(step, f"loss {logs['loss']:.3f}")

        report = sft(config.model, rows, out, init, config.seed, show, warnings.append)
    table("Initialisation: M_0 -> M_1", report)
    warn(warnings)
