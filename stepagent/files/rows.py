"""The rows of the data files that people write: problems, IFT, EFT and labelled pairs, candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stepagent.errors import DataError
from stepagent.files.jsonl import read_numbered
from stepagent.types import Step


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
        """What a judge's prompt is filled with."""
        return {
            "question": self.question,
            "prefix": "".join(self.prefix),
            "first": self.first,
            "second": self.second,
        }


@dataclass(frozen=True, slots=True)
class CandidatesRow:
    """A question, the steps so far and the candidate next steps, as text."""

    question: str
    candidates: tuple[str, ...]
    prefix: tuple[str, ...] = ()
    id: str | None = None


def plain_step(text: str) -> Step:
    """A step known only as text."""
    return Step(text, text.strip(), "stop", ends=False)


def load_pairs(path: Path) -> list[EftRow]:
    """Labelled pairs. Raises DataError for a row without a winner."""
    rows = read_numbered(path, EftRow, "; `stepagent data import --to pairs` makes labelled pairs")
    for line, row in rows:
        if row.winner is None:
            raise DataError.at(path, line, "no 'winner'; a labelled pair says first, second or tie")
    return [row for _, row in rows]


def load_ift(path: Path) -> list[IftRow]:
    """Solutions to learn from. Raises DataError for a row without one."""
    rows = read_numbered(path, IftRow)
    for line, row in rows:
        if not row.text.strip():
            raise DataError.at(path, line, "no solution; give 'solution' or 'steps'")
    return [row for _, row in rows]


def load_eft(path: Path, labels: Sequence[str]) -> list[EftRow]:
    """Judged pairs to learn from. Raises DataError for a judgement without one of the `labels`."""
    rows = read_numbered(path, EftRow)
    for line, row in rows:
        if not any(label in row.judgement for label in labels):
            raise DataError.at(path, line, f"the judgement holds none of the labels {' '.join(labels)}")
    return [row for _, row in rows]


def load_candidates(path: Path) -> dict[str, CandidatesRow]:
    """Rows to judge, by id (a missing id is the row's number). Raises DataError."""
    named: dict[str, CandidatesRow] = {}
    for number, (line, row) in enumerate(read_numbered(path, CandidatesRow), start=1):
        if len(row.candidates) < 2:
            raise DataError.at(path, line, "a judge compares at least two 'candidates'")
        name = row.id or str(number)
        if name in named:
            raise DataError.at(path, line, f"the id '{name}' is not unique")
        named[name] = row
    if not named:
        raise DataError(f"{path}: no rows to judge")
    return named
