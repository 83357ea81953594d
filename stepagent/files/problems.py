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
from stepagent.config.settings import Config, ProblemSettings
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


def problem_file(source: Path | ProblemSettings, folder: Path) -> Path:
    """The JSONL file of a source: itself if it is one, else what is made from it in `folder`/data, once for
    the same file and settings. Raises DataError."""
    settings = source if isinstance(source, ProblemSettings) else ProblemSettings(path=str(source))
    if settings == ProblemSettings(path=settings.path) and settings.path.endswith(".jsonl"):
        return Path(settings.path)
    if not Path(settings.path).exists() and settings.path not in PRESETS and "/" not in settings.path:
        near = get_close_matches(settings.path, PRESETS, n=1)
        hint = f"did you mean the preset '{near[0]}'?" if near else f"presets: {', '.join(PRESETS)}"
        raise DataError(f"problems: there is no file '{settings.path}'; {hint}")
    preset = PRESETS.get(settings.path)
    if preset is not None:
        asked = {key: value for key, value in settings if value is not None and key != "path"}
        settings = preset.model_copy(update=asked)
    made = folder / "data" / f"{derive_seed(settings.model_dump_json()):016x}.jsonl"
    RunFolder(folder / "data").stage(
        made.stem,
        {"source": Path(settings.path)},
        {"problems": made},
        settings.model_dump(mode="json"),
        lambda: _make(settings, made),
    )
    return made


def _make(settings: ProblemSettings, made: Path) -> None:
    """Write the rows of a source, all or a seeded sample in its drawn order."""
    silent = 0

    def problems() -> Iterator[Problem]:
        nonlocal silent
        with bar(f"problems of {settings.path}", None) as progress:
            rows = read_raw(settings.path, settings.subset, settings.split)
            for number, (where, row) in enumerate(rows, start=1):
                problem = _problem(settings, where, row, number)
                silent += bool(settings.worked) and problem.answer is None
                yield problem
                progress.advance()

    write_rows(made, problems())
    if settings.sample is not None:
        _draw(made, settings.sample, settings.seed)
    if silent:
        warn([f"{settings.path}: {silent} solutions state no final answer; these problems serve search only"])


def _problem(settings: ProblemSettings, where: str, row: Mapping[str, Any], number: int) -> Problem:
    def column(name: str, key: str) -> Any:
        if name not in row:
            raise DataError(f"{where}: no column '{name}'; it has {', '.join(row)}; set problems.{key}")
        return row[name]

    asked = settings.question or "question"
    question = column(asked, "question")
    if not isinstance(question, str):
        raise DataError(f"{where}: '{asked}' must be text")
    answer = column(settings.answer, "answer") if settings.answer else row.get("answer")
    if isinstance(answer, list):
        answer = ", ".join(map(str, answer)) or None
    if settings.worked and answer is not None:
        answer = stated_answer(str(answer))
    name = row.get("id") if settings.id is None else column(settings.id, "id")
    more = row.get("metadata")
    reference = None if answer is None else str(answer).strip().strip("$")
    said = str(number if name in (None, "") else name)
    return Problem(said, question, reference or None, more if isinstance(more, dict) else {})


def _draw(made: Path, count: int, seed: int) -> None:
    starts = array("q")
    with made.open("rb") as lines:
        place = 0
        for line in lines:
            starts.append(place)
            place += len(line)
        if count > len(starts):
            raise DataError(f"{made}: {len(starts)} problems, but problems.sample asks for {count}")
        drawn = random.Random(seed).sample(range(len(starts)), count)
        part = made.with_suffix(".drawn")
        with part.open("wb") as file:
            for index in drawn:
                lines.seek(starts[index])
                file.write(lines.readline())
    part.replace(made)


def iter_problems(path: Path) -> Iterator[Problem]:
    """Problems from JSONL rows {question, id?, answer?, metadata?}, one at a time; a missing id is the row's
    number. Raises DataError with file and line for a row without a question."""
    hint = '; a problem is a row such as {"question": "...", "answer": "..."}'
    for number, (line, row) in enumerate(iter_numbered(path, _ProblemRow, hint), start=1):
        if not row.question.strip():
            raise DataError.at(path, line, "the 'question' is empty; a problem needs one")
        name = str(row.id) if row.id is not None else str(number)
        answer = str(row.answer) if row.answer is not None else None
        yield Problem(name, row.question, answer, row.metadata or {})


def check_problems(path: Path) -> int:
    """How many problems a file holds. Raises DataError for a bad row, a repeated id, or none at all. Keeps
    eight bytes a problem."""
    hashes = array("Q")
    for problem in iter_problems(path):
        hashes.append(derive_seed(problem.id))
    if not hashes:
        raise DataError(f"{path}: no problems in the file")
    if any(one == other for one, other in pairwise(sorted(hashes))):
        _refuse_repeated(path)
    return len(hashes)


def _refuse_repeated(path: Path) -> None:
    seen: dict[str, int] = {}
    for number, (line, row) in enumerate(iter_numbered(path, _ProblemRow), start=1):
        name = str(row.id) if row.id is not None else str(number)
        if name in seen:
            raise DataError.at(path, line, f"the id '{name}' is also in line {seen[name]}; make ids unique")
        seen[name] = line


def load_problems(path: Path) -> list[Problem]:
    """All problems of a file. Raises DataError as `iter_problems` and `check_problems` do."""
    check_problems(path)
    return list(iter_problems(path))


def draw_problems(source: Path, seed: int, share: slice, out: Path) -> None:
    """Write the `share` of the problems, shuffled by `seed`, without their answers."""
    pool = load_problems(source)
    random.Random(seed).shuffle(pool)
    write_rows(out, [problem.without_answer() for problem in pool[share]])


def load_held_out(path: Path) -> list[Problem]:
    """Problems that all have an answer. Raises DataError."""
    problems = load_problems(path)
    for problem in problems:
        if problem.answer is None:
            raise DataError(f"{path}: problem '{problem.id}' has no 'answer' to evaluate against")
    return problems


def question_key(question: str) -> int:
    """The same for the same question, case and white space aside."""
    return derive_seed(" ".join(question.split()).casefold())


def held_out_keys(config: Config, folder: Path) -> set[int]:
    """The `question_key` of every problem that the config evaluates on: what no training data may hold."""
    if config.evaluate is None:
        return set()
    source = problem_file(config.evaluate.problems, folder)
    return {question_key(problem.question) for problem in iter_problems(source)}


class Answers(Mapping[str, str]):
    """References by question, read from problem files when they are first asked for: by judges whose kind
    says that they know them."""

    def __init__(self, sources: Sequence[Path | ProblemSettings], folder: Path) -> None:
        self._sources = sources
        self._folder = folder

    @cached_property
    def _known(self) -> dict[str, str]:
        paths = [problem_file(source, self._folder) for source in self._sources]
        problems = [problem for path in paths for problem in load_problems(path)]
        return {problem.question: problem.answer for problem in problems if problem.answer is not None}

    def __getitem__(self, question: str) -> str:
        return self._known[question]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
