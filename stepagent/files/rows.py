"""The rows of the data files that people write: solutions, judged and labelled pairs, candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepagent.errors import DataError
from stepagent.files.tables import read_typed
from stepagent.types import Step, StepPair


@dataclass(frozen=True, slots=True)
class IftRow:
    """{x, y}: a question and its solution, whole (`solution`) or as step texts that join to it. `cut_by` says which
    rule made the steps, `answer` is the final answer that the solution reaches, if the source names it."""

    question: str
    solution: str = ""
    steps: tuple[str, ...] = ()
    cut_by: str = ""
    answer: str | None = None

    @property
    def text(self) -> str:
        """The whole solution."""
        return self.solution or "".join(self.steps)


@dataclass(frozen=True, slots=True)
class CandidatesRow:
    """A question, the steps so far and the candidate next steps, as text."""

    question: str
    candidates: tuple[str, ...]
    prefix: tuple[str, ...] = ()
    id: str | None = None


def plain_step(text: str) -> Step:
    """Return a step known only as text."""
    return Step(text, text.strip(), "stop", ends=False)


def load_labelled_pairs(path: str | Path) -> list[StepPair]:
    """Labelled pairs of any kind of file. Raises DataError for a row without a winner."""
    pairs: list[StepPair] = []
    for place, row in read_typed(path, StepPair, "; `stepagent data import --to pairs` makes labelled pairs"):
        if row.winner is None:
            raise DataError(f"{place}: no 'winner'; a labelled pair says first, second or tie")
        pairs.append(row)
    return pairs


def read_ift(path: str | Path) -> Iterator[tuple[str, IftRow]]:
    """Yield solutions to learn from, of any kind of file, with their places. Raises DataError for a row without one."""
    for place, row in read_typed(path, IftRow):
        if not row.text.strip():
            raise DataError(f"{place}: no solution; give 'solution' or 'steps'")
        yield place, row


def load_eft(path: str | Path, labels: Sequence[str]) -> list[StepPair]:
    """Judged pairs to learn from, of any kind of file. Raises DataError for a judgement without one of the `labels`."""
    rows: list[StepPair] = []
    for place, row in read_typed(path, StepPair):
        if not any(label in row.judgement for label in labels):
            raise DataError(f"{place}: the judgement holds none of the labels {' '.join(labels)}")
        rows.append(row)
    return rows


def load_candidates(path: str | Path) -> dict[str, CandidatesRow]:
    """Rows to judge, by id (a missing id is the row's number), of any kind of file. Raises DataError."""
    by_id: dict[str, CandidatesRow] = {}
    for number, (place, row) in enumerate(read_typed(path, CandidatesRow), start=1):
        if len(row.candidates) < 2:
            raise DataError(f"{place}: a judge compares at least two 'candidates'")
        name = row.id or str(number)
        if name in by_id:
            raise DataError(f"{place}: the id '{name}' is not unique")
        by_id[name] = row
    if not by_id:
        raise DataError(f"{path}: no rows to judge")
    return by_id
