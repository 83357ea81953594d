"""Stage: M_0 + IFT {x, y} + EFT {x, s_1..s_{l-1}, s_l^1, s_l^2, judge} -> M_1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stepagent.config import Component, Config, InitSettings
from stepagent.errors import DataError
from stepagent.jsonl import read_rows, write_rows
from stepagent.judges.pairwise import PLACEHOLDERS
from stepagent.optimize.sft import SftRow, sft
from stepagent.pipeline.progress import bar, table
from stepagent.prompting import PromptTemplate, load_prompt


@dataclass(frozen=True, slots=True)
class IftRow:
    """{x, y}: a question and its solution, whole (`solution`) or as step texts that join to it."""

    question: str
    solution: str = ""
    steps: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.solution or "".join(self.steps)


@dataclass(frozen=True, slots=True)
class EftRow:
    """{x, s_1..s_{l-1}, s^1, s^2, judge}: two candidate steps in their seats and the written judgement
    that closes with a verdict label. `winner` is the label as data; test pairs need no judgement."""

    question: str
    prefix: tuple[str, ...]
    first: str
    second: str
    judgement: str = ""
    winner: Literal["first", "second", "tie"] | None = None

    def values(self) -> dict[str, str]:
        return {
            "question": self.question,
            "prefix": "".join(self.prefix),
            "first": self.first,
            "second": self.second,
        }


def sft_rows(config: Config, init: InitSettings) -> list[SftRow]:
    """IFT and EFT rows rendered with the very prompts that the generator and the judge will use."""
    solve = template_of(config.generator, "solve", ("question",))
    judge = template_of(config.judge, "judge_pairwise", PLACEHOLDERS)
    assert judge.labels
    rows = []
    for line, ift in enumerate(read_rows(init.ift, IftRow), start=1):
        if not ift.text.strip():
            raise DataError.at(init.ift, line, "no solution; give 'solution' or 'steps'")
        rows.append(SftRow(solve.messages({"question": ift.question}), ift.text, "ift"))
    for line, eft in enumerate(read_rows(init.eft, EftRow), start=1):
        if not any(label in eft.judgement for label in judge.labels.all()):
            raise DataError.at(init.eft, line, f"the judgement holds no verdict label of {judge.path.name}")
        rows.append(SftRow(judge.messages(eft.values()), eft.judgement, "eft"))
    return rows


def template_of(component: Component, default: str, placeholders: Sequence[str]) -> PromptTemplate:
    """The prompt a component is configured with, or its kind's default."""
    return load_prompt(str(component.arguments().get("prompt", default)), tuple(placeholders))


def initialize(config: Config, init: InitSettings, out: Path) -> None:
    """Write the SFT rows beside `out`, train M_0 on them, and write M_1 to `out`."""
    data = out.parent / "sft.jsonl"
    write_rows(data, sft_rows(config, init))
    with bar("init: SFT of M_0", None) as progress:

        def show(step: int, steps: int, logs: dict[str, float]) -> None:
            progress.total(steps)
            progress.advance(step, f"loss {logs['loss']:.3f}")

        report = sft(config.model, data, out, init, config.seed, show)
    table("Initialisation: M_0 -> M_1", report)
