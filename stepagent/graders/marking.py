"""Marks of solutions and votes over them, with any grader. A grader that fails is a record, never a wrong mark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stepagent.errors import GraderError
from stepagent.graders.math import MathGrader
from stepagent.interfaces import AnswerReader, Grader
from stepagent.types import Problem

MATH = MathGrader()
"""The grader of those who name none."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A solution is right, or is not; None, and the reason in `error`, where the grader failed."""

    right: bool | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Votes:
    """The solutions (indices, in order) that reach the answer of most, and that answer; none, if no solution states
    one. `error` is the reason of the first solution that could not be read or compared: it has no vote."""

    agreeing: tuple[int, ...] = ()
    answer: str | None = None
    error: str = ""


def mark(grader: Grader, problem: Problem, solution: str, *, reference: str | None = None) -> Mark:
    """Return the mark of a solution; `reference` is the answer of a problem that comes without its own."""
    complete = problem if reference is None else replace(problem, answer=reference)
    return _guarded(lambda: grader.grade(complete, solution))


def reaches(grader: Grader, solution: str, answer: str) -> Mark:
    """Return whether a solution reaches an answer that another solution stated."""
    reader = _reader(grader)

    def same() -> bool:
        own_answer = reader.answer(solution)
        return own_answer is not None and reader.same(own_answer, answer)

    return _guarded(same)


def vote(grader: Grader, solutions: Sequence[str]) -> Votes:
    """Count the solutions by their answers; of equally many the answer that came first counts."""
    reader, groups, error = _reader(grader), dict[str, list[int]](), ""
    for index, solution in enumerate(solutions):
        try:
            if answer := reader.answer(solution):
                equal = next((group for group in groups if reader.same(answer, group)), answer)
                groups.setdefault(equal, []).append(index)
        except Exception as failure:  # noqa: BLE001 (an own grader may raise anything; an interrupt passes)
            error = error or _words(failure)
    if not groups:
        return Votes(error=error)
    answer, agreeing = max(groups.items(), key=lambda group: len(group[1]))
    return Votes(tuple(agreeing), answer, error)


def _reader(grader: Grader) -> AnswerReader:
    return grader if isinstance(grader, AnswerReader) else MATH


def _guarded(grade: Callable[[], object]) -> Mark:
    try:
        right = grade()
    except Exception as failure:  # noqa: BLE001 (an own grader may raise anything; an interrupt passes)
        return Mark(None, _words(failure))
    if right is True or right is False:
        return Mark(right)
    return Mark(None, f"the grader returned {right!r:.80}, which is neither True nor False")


def _words(failure: Exception) -> str:
    if isinstance(failure, GraderError):
        return str(failure)
    return f"the grader raised {type(failure).__name__}: {failure}".rstrip(": ")
