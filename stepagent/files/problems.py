"""Problems: files of any kind, datasets on the hub, presets -> one JSONL file that everything else reads."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from stepagent.answers import stated_answer
from stepagent.config.settings import ProblemSettings
from stepagent.console import bar, warn
from stepagent.errors import DataError
from stepagent.files.jsonl import iter_numbered, write_rows
from stepagent.files.runs import RunFolder
from stepagent.files.tables import read_raw
from stepagent.seeds import derive_seed
from stepagent.types import Problem

_PRESETS: dict[str, dict[str, str | bool]] = {
    "gsm8k": {"path": "openai/gsm8k", "subset": "main", "worked": True},
    "math": {"path": "DigitalLearningGmbH/MATH-lighteval", "answer": "solution", "worked": True},
    "math500": {"path": "HuggingFaceH4/MATH-500", "split": "test"},
    "numina": {"path": "AI-MO/NuminaMath-CoT", "answer": "solution", "worked": True},
    "aime": {"path": "HuggingFaceH4/aime_2024"},
    "olympiadbench": {
        "path": "Hothan/OlympiadBench",
        "subset": "OE_TO_maths_en_COMP",
        "answer": "final_answer",
    },
}
_QUESTIONS = {"gsm8k": "question", "olympiadbench": "question"}  # the others': problem
PRESETS = {
    name: ProblemSettings.model_validate({"question": _QUESTIONS.get(name, "problem"), **columns})
    for name, columns in _PRESETS.items()
}
"""Datasets by their usual names: `problems: {path: gsm8k, sample: 500}`."""


@dataclass(frozen=True, slots=True)
class _ProblemRow:
    question: str
    id: str | int | None = None
    answer: str | int | float | None = None
    metadata: dict[str, object] | None = None


def problem_path(settings: ProblemSettings, folder: Path) -> Path:
    """Return the JSONL file of a source: itself if it is one, else the file made from it in `folder`/data, once for the
    same file and settings. Raises DataError."""
    if settings == ProblemSettings(path=settings.path) and settings.path.endswith(".jsonl"):
        return Path(settings.path)
    if not Path(settings.path).exists() and settings.path not in PRESETS and "/" not in settings.path:
        near = get_close_matches(settings.path, PRESETS, n=1)
        hint = f"did you mean the preset '{near[0]}'?" if near else f"presets: {', '.join(PRESETS)}"
        raise DataError(f"problems: there is no file '{settings.path}'; {hint}")
    preset = PRESETS.get(settings.path)
    if preset is not None:
        overrides = {key: value for key, value in settings if value is not None and key != "path"}
        settings = preset.model_copy(update=overrides)
    path = folder / "data" / f"{derive_seed(settings.model_dump_json()):016x}.jsonl"
    RunFolder(folder / "data").stage(
        path.stem,
        inputs={"source": Path(settings.path)},
        outputs={"problems": path},
        identity=settings.model_dump(mode="json"),
        work=lambda: _convert(settings, path),
    )
    return path


def _convert(settings: ProblemSettings, path: Path) -> None:
    """Write the rows of a source, all or a seeded sample in its drawn order."""
    unanswered = 0

    def problems() -> Iterator[Problem]:
        nonlocal unanswered
        with bar(f"problems of {settings.path}", None) as progress:
            rows = read_raw(settings.path, settings.subset, settings.split)
            for number, (place, row) in enumerate(rows, start=1):
                problem = _problem(settings, place, row, number=number)
                unanswered += bool(settings.worked) and problem.answer is None
                yield problem
                progress.advance()

    write_rows(path, problems())
    if settings.sample is not None:
        _draw(path, settings.sample, settings.seed)
    if unanswered:
        warn([f"{settings.path}: {unanswered} solutions state no final answer; these problems serve search only"])


def _problem(settings: ProblemSettings, place: str, row: Mapping[str, Any], *, number: int) -> Problem:
    def column(name: str, key: str) -> Any:
        if name not in row:
            raise DataError(f"{place}: no column '{name}'; it has {', '.join(row)}; set problems.{key}")
        return row[name]

    question_column = settings.question or "question"
    question = column(question_column, "question")
    if not isinstance(question, str):
        raise DataError(f"{place}: '{question_column}' must be text")
    answer = column(settings.answer, "answer") if settings.answer else row.get("answer")
    if isinstance(answer, list):
        answer = ", ".join(map(str, answer)) or None
    if settings.worked and answer is not None:
        answer = stated_answer(str(answer))
    name = row.get("id") if settings.id is None else column(settings.id, "id")
    metadata = row.get("metadata")
    reference = None if answer is None else str(answer).strip().strip("$")
    problem_id = str(number if name in (None, "") else name)
    return Problem(problem_id, question, reference or None, metadata if isinstance(metadata, dict) else {})


def _draw(path: Path, count: int, seed: int) -> None:
    starts = array("q")
    with path.open("rb") as lines:
        position = 0
        for line in lines:
            starts.append(position)
            position += len(line)
        if count > len(starts):
            raise DataError(f"{path}: {len(starts)} problems, but problems.sample asks for {count}")
        indices = random.Random(seed).sample(range(len(starts)), count)
        part = path.with_suffix(".drawn")
        with part.open("wb") as file:
            for index in indices:
                lines.seek(starts[index])
                file.write(lines.readline())
    part.replace(path)


class ProblemFile:
    """A JSONL file of problems {question, id?, answer?, metadata?}; a missing id is the row's number.

    It is checked once, when it is opened: DataError with file and line for a row without a question, a repeated id,
    or a file without problems. Keeps eight bytes a problem. Iterating gives the problems without their answers, one
    at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        hashes = array("Q", (derive_seed(problem.id) for _, problem in self._rows()))
        if not hashes:
            raise DataError(f"{path}: no problems in the file")
        if any(one_hash == next_hash for one_hash, next_hash in pairwise(sorted(hashes))):
            self._refuse_repeated()
        self._count = len(hashes)

    def _refuse_repeated(self) -> None:
        lines: dict[str, int] = {}
        for line, problem in self._rows():
            if problem.id in lines:
                reason = f"the id '{problem.id}' is also in line {lines[problem.id]}; make ids unique"
                raise DataError.at(self.path, line, reason)
            lines[problem.id] = line

    @classmethod
    def of(cls, source: ProblemSettings, folder: Path) -> ProblemFile:
        """Return the problems of a source; other formats than JSONL are converted into `folder`/data. Raises
        DataError."""
        return cls(problem_path(source, folder))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Problem]:
        return (problem.without_answer() for problem in self.with_answers())

    def with_answers(self) -> Iterator[Problem]:
        """Return the problems with their reference answers, for evaluation."""
        return (problem for _, problem in self._rows())

    def held_out(self) -> list[Problem]:
        """All problems, each of which has an answer. Raises DataError if one has none."""
        problems = list(self.with_answers())
        for problem in problems:
            if problem.answer is None:
                raise DataError(f"{self.path}: problem '{problem.id}' has no 'answer' to evaluate against")
        return problems

    def keys(self) -> set[int]:
        """Return the `question_key` of every problem."""
        return {question_key(problem.question) for problem in self}

    def draw(self, seed: int, share: slice, out: Path) -> ProblemFile:
        """Write the `share` of the problems, shuffled by `seed`, without their answers to `out`."""
        pool = list(self)
        random.Random(seed).shuffle(pool)
        write_rows(out, pool[share])
        return ProblemFile(out)

    def _rows(self) -> Iterator[tuple[int, Problem]]:
        hint = '; a problem is a row such as {"question": "...", "answer": "..."}'
        for number, (line, row) in enumerate(iter_numbered(self.path, _ProblemRow, hint), start=1):
            if not row.question.strip():
                raise DataError.at(self.path, line, "the 'question' is empty; a problem needs one")
            name = str(row.id) if row.id is not None else str(number)
            answer = str(row.answer) if row.answer is not None else None
            yield line, Problem(name, row.question, answer, row.metadata or {})


def question_key(question: str) -> int:
    """Return a hash that is the same for the same question, case and white space aside."""
    return derive_seed(" ".join(question.split()).casefold())


class Answers(Mapping[str, str]):
    """References by question, read from problem files when they are first asked for: only judges whose kind says so
    ask."""

    def __init__(self, sources: Sequence[ProblemSettings], folder: Path) -> None:
        self._sources = sources
        self._folder = folder

    @cached_property
    def _references(self) -> dict[str, str]:
        files = [ProblemFile.of(source, self._folder) for source in self._sources]
        problems = [problem for file in files for problem in file.with_answers()]
        return {problem.question: problem.answer for problem in problems if problem.answer is not None}

    def __getitem__(self, question: str) -> str:
        return self._references[question]

    def __iter__(self) -> Iterator[str]:
        return iter(self._references)

    def __len__(self) -> int:
        return len(self._references)
