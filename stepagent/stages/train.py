"""Stage: M_0 + IFT {x, y} + EFT {x, s_1..s_{l-1}, s_l^1, s_l^2, judge} -> M_1."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from stepagent.config.prompts import judge_prompt_name, load_judge_prompt, solve_prompt
from stepagent.config.settings import Config, InitSettings
from stepagent.console import bar, table, warn
from stepagent.errors import ConfigError
from stepagent.files.rows import load_eft, load_ift
from stepagent.optimize.sft import SftRow, sft
from stepagent.seeds import derive_seed


def sft_rows(config: Config, init: InitSettings) -> list[SftRow]:
    """What an epoch of SFT sees: IFT and EFT rows, as often as `mix` says, rendered with the very prompts
    that the generator and the judge will use.

    Raises ConfigError or DataError.
    """
    rng = random.Random(derive_seed(config.seed, "mix"))
    solved = _times(ift_rows(config, init.ift), init.mix.ift, rng)
    judged = _times(eft_rows(config, init.eft), init.mix.eft, rng) if init.eft else []
    if not solved and not judged:
        raise ConfigError("init.mix: weighs both sets with 0; nothing is left to learn from")
    return [*solved, *judged]


def ift_rows(config: Config, path: Path) -> list[SftRow]:
    """Solutions, each after its question in the generator's prompt. Raises ConfigError or DataError."""
    solve = solve_prompt(config.generator)
    return [SftRow(solve.messages({"question": row.question}), row.text) for row in load_ift(path)]


def eft_rows(config: Config, path: Path) -> list[SftRow]:
    """Judgements, each after its pair in the judge's prompt. Raises ConfigError or DataError."""
    judge, labels = load_judge_prompt(judge_prompt_name(config.judge))
    return [SftRow(judge.messages(row.values()), row.judgement) for row in load_eft(path, labels.all())]


def replayer(config: Config, purpose: str) -> Callable[[int], list[SftRow]] | None:
    """What draws the rows that a round learns again, given its number of pairs: so many for each pair as
    `replay` says, of each set without repetition, by seed and `purpose`. None if the config replays nothing.
    Raises ConfigError or DataError."""
    settings, init = config.replay, config.init
    if settings is None or not (settings.ift or settings.eft):
        return None
    if init is None or (settings.eft and init.eft is None):
        raise ConfigError("replay: draws from the files that 'init' names; name them there")
    sets = [(settings.ift, ift_rows(config, init.ift) if settings.ift else [])]
    if settings.eft and init.eft:
        sets.append((settings.eft, eft_rows(config, init.eft)))

    def draw(pairs: int) -> list[SftRow]:
        rng = random.Random(derive_seed(config.seed, "replay", purpose))
        return [row for share, rows in sets for row in rng.sample(rows, min(len(rows), round(share * pairs)))]

    return draw


def _times(rows: list[SftRow], weight: float, rng: random.Random) -> list[SftRow]:
    whole = int(weight)
    return rows * whole + rng.sample(rows, round((weight - whole) * len(rows)))


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
