"""Problems: files of any kind, datasets on the hub, presets -> one JSONL file that everything else reads."""

from __future__ import annotations

import random
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from stepagent.answers import is_final, stated_answer
from stepagent.config.component import KINDS
from stepagent.config.settings import ProblemSettings
from stepagent.console import bar, warn
from stepagent.environments import generated_problems
from stepagent.errors import DataError
from stepagent.files.jsonl import write_rows
from stepagent.files.presets import PRESETS
from stepagent.files.runs import RunFolder
from stepagent.files.tables import may_be_dataset, read_raw
from stepagent.files.values import HALF_CHARACTER, cell_text, has_half_character, is_missing, plain
from stepagent.seeds import derive_seed
from stepagent.types import Problem

_PLACE = "stepagent/place"
"""Key of a converted row: where it stands in its source, such as ":12" behind the name of the file."""
_READING = 2  # a number that grows when values are read otherwise: sources are converted anew


def problem_path(settings: ProblemSettings, folder: Path) -> Path:
    """Return the JSONL file of a source: itself if it is one, else the file made from it in `folder`/data, once for the
    same file and settings. Raises DataError."""
    if settings.env is None and settings == ProblemSettings(path=settings.path) and settings.path.endswith(".jsonl"):
        return Path(settings.path)
    if settings.env is None:
        settings = _with_preset(settings)
    path = folder / "data" / f"{derive_seed(settings.model_dump_json()):016x}.jsonl"
    with RunFolder(folder / "data") as data:
        data.stage(
            path.stem,
            inputs={"source": Path(settings.path)} if settings.path else {},
            outputs={"problems": path},
            identity=[settings.model_dump(mode="json"), _READING],
            work=lambda: _convert(settings, path),
        )
    return path


def _with_preset(settings: ProblemSettings) -> ProblemSettings:
    """Return the settings, filled by the preset that they name. Raises DataError for a file that does not exist."""
    if not Path(settings.path).exists() and settings.path not in PRESETS and "/" not in settings.path:
        near = get_close_matches(settings.path, PRESETS, n=1)
        hint = f"did you mean the preset '{near[0]}'?" if near else f"presets: {', '.join(PRESETS)}"
        raise DataError(f"problems: there is no file '{settings.path}'; {hint}")
    preset = PRESETS.get(settings.path)
    if preset is None:
        return settings
    overrides = {key: value for key, value in settings if value is not None and key != "path"}
    return preset.model_copy(update=overrides)


def _convert(settings: ProblemSettings, path: Path) -> None:
    """Write the rows of a source, all or a seeded sample in its drawn order."""
    unanswered = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal unanswered
        with bar(f"problems of {settings.source}", None) as progress:
            for place, problem in _problems(settings):
                unanswered += bool(settings.worked) and problem.answer is None
                yield {**asdict(problem), _PLACE: _inner_place(settings.source, place)}
                progress.advance()

    write_rows(path, rows())
    if settings.sample is not None:
        _draw(path, settings)
    if unanswered:
        warn([f"{settings.path}: {unanswered} solutions state no final answer; these problems serve search only"])


def _inner_place(source: str, place: str) -> str:
    return place.removeprefix(source if place.startswith(source) else str(Path(source)))


def _problems(settings: ProblemSettings) -> Iterator[tuple[str, Problem]]:
    """Return the problems of a source, each with its place. Raises DataError for a row that is none, and for a column
    that is named in the settings and stands in no row; ConfigError for an environment that cannot be had."""
    if settings.env is not None:
        yield from generated_problems(settings)
        return
    absent = {key: name for key in ("answer", "id") if (name := getattr(settings, key)) is not None}
    first: tuple[str, Mapping[str, Any]] | None = None
    rows = read_raw(settings.path, settings.subset, settings.split)
    for number, (place, row) in enumerate(rows, start=1):
        first = first or (place, row)
        absent = {key: name for key, name in absent.items() if name not in row} if absent else absent
        yield place, _problem(settings, place, row, number=number)
    if first and absent:
        key, name = next(iter(absent.items()))
        raise DataError(f"{first[0]}: no column '{name}'; it has {', '.join(first[1])}; set problems.{key}")


def _problem(settings: ProblemSettings, place: str, row: Mapping[str, Any], *, number: int) -> Problem:
    """Return one row as a problem. Raises DataError that names `place`."""

    def text(name: str) -> str | None:
        try:
            return cell_text(row.get(name))
        except ValueError as error:
            raise DataError(f"{place}: '{name}' {error}") from None

    question = _question(settings, place, row)
    answer = text(settings.answer or "answer")
    if settings.worked and answer is not None:
        answer = stated_answer(answer)
    metadata = row.get("metadata")
    problem_id = text(settings.id or "id") or str(number)
    problem = Problem(problem_id, question, answer, plain(metadata) if isinstance(metadata, dict) else {})
    if has_half_character(f"{problem_id}{question}{answer}") or has_half_character(problem.metadata):
        raise DataError(f"{place}: {HALF_CHARACTER}")
    return problem


def _question(settings: ProblemSettings, place: str, row: Mapping[str, Any]) -> str:
    name = settings.question or "question"
    if name not in row and settings.question:
        raise DataError(f"{place}: no column '{name}'; it has {', '.join(row)}; set problems.question")
    if name not in row:
        raise DataError(
            f'{place}: \'question\' field required; a problem is a row such as {{"question": "...", "answer": "..."}}; '
            f"this one has {', '.join(row) or 'nothing'} (problems.question names another column)"
        )
    question = row[name]
    if is_missing(question) or (isinstance(question, str) and cell_text(question) is None):
        raise DataError(f"{place}: the '{name}' is empty; a problem needs one")
    if not isinstance(question, str):
        raise DataError(f"{place}: '{name}' input should be a valid string")
    return question


def _draw(path: Path, settings: ProblemSettings) -> None:
    count = settings.sample or 0
    starts = array("q")
    with path.open("rb") as lines:
        position = 0
        for line in lines:
            starts.append(position)
            position += len(line)
        if count > len(starts):
            raise DataError(f"{settings.path}: {len(starts)} problems, but problems.sample asks for {count}")
        indices = random.Random(settings.seed).sample(range(len(starts)), count)
        part = path.with_suffix(".drawn")
        with part.open("wb") as file:
            for index in indices:
                lines.seek(starts[index])
                file.write(lines.readline())
    part.replace(path)


def count_problems(settings: ProblemSettings) -> int | None:
    """Return the number of problems that a source gives, after reading each of them and writing nothing; None for a
    data set, which is not fetched. Raises DataError."""
    if settings.env is not None:
        return sum(1 for _ in _problems(settings))
    if settings.path in PRESETS or (not Path(settings.path).is_file() and may_be_dataset(settings.path)):
        return None
    if settings == ProblemSettings(path=settings.path) and settings.path.endswith(".jsonl"):
        return len(ProblemFile(Path(settings.path)))
    count = sum(1 for _ in _problems(settings))
    if not count:
        raise DataError(f"{settings.path}: no problems in the file")
    if settings.sample is not None and settings.sample > count:
        raise DataError(f"{settings.path}: {count} problems, but problems.sample asks for {settings.sample}")
    return settings.sample or count


_WORKED = (
    "which no final answer equals; set worked: true, if it marks its answer (#### or a box), or name a column of final "
    "answers"
)


class ProblemFile:
    """A file of problems {question, id?, answer?, metadata?}; a missing id is the row's number. `source` is its name
    for the user: the file or data set that it was made from, or `path` itself.

    It is checked once, when it is opened: DataError with the user's file and line for a row without a question, a
    repeated id, or a file without problems. Keeps eight bytes a problem. Iterating gives the problems without their
    answers, one at a time.
    """

    def __init__(self, path: Path, source: str | None = None) -> None:
        self.path = path
        self.source = source or str(path)
        hashes = array("Q", (derive_seed(problem.id) for _, problem in self._rows()))
        if not hashes:
            raise DataError(f"{self.source}: no problems in the file")
        if any(one_hash == next_hash for one_hash, next_hash in pairwise(sorted(hashes))):
            self._refuse_repeated()
        self._count = len(hashes)

    def _refuse_repeated(self) -> None:
        places: dict[str, str] = {}
        for place, problem in self._rows():
            inner = _inner_place(self.source, place).strip()
            if problem.id in places:
                spoken = re.sub(r"^:", "line ", places[problem.id])
                raise DataError(f"{place}: the id '{problem.id}' is also in {spoken}; make ids unique")
            places[problem.id] = inner

    @classmethod
    def of(cls, source: ProblemSettings, folder: Path) -> ProblemFile:
        """Return a source's problems; formats other than JSONL are converted into `folder`/data. Raises DataError."""
        return cls(problem_path(source, folder), source.source)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Problem]:
        return (problem.without_answer() for problem in self.with_answers())

    def with_answers(self) -> Iterator[Problem]:
        """Return the problems with their reference answers, for evaluation."""
        return (problem for _, problem in self._rows())

    def held_out(self, grader: str = KINDS["grader"]) -> list[Problem]:
        """All problems: each has an answer that the kind of `grader` can read, or is scored by its environment. Raises
        DataError for another one."""
        problems: list[Problem] = []
        for place, problem in self._rows():
            if problem.answer is None and not problem.is_scored_by_environment:
                raise DataError(
                    f"{place}: problem '{problem.id}' has no 'answer' to evaluate against; give it one, or leave it out"
                )
            if grader == "math" and problem.answer is not None and not is_final(problem.answer):
                raise DataError(f"{place}: the answer of problem '{problem.id}' is a whole solution, {_WORKED}")
            problems.append(problem)
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

    def _rows(self) -> Iterator[tuple[str, Problem]]:
        """Return the problems with their places in the source."""
        settings = ProblemSettings(path=str(self.path))
        for number, (place, row) in enumerate(read_raw(self.path), start=1):
            inner = row.get(_PLACE)
            origin = f"{self.source}{inner}" if inner is not None else place
            yield origin, _problem(settings, origin, row, number=number)


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
