"""A judge that knows the reference answer, for data and controls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from stepagent.errors import ConfigError
from stepagent.graders.marking import MATH, Mark, mark
from stepagent.interfaces import Grader
from stepagent.judges.scores import certain, scored_verdict
from stepagent.tree import joined_text
from stepagent.types import Problem, Step, Usage, Verdict


class ReferenceJudge:
    """Judge that scores final steps by the reference answer: 1 if `grader` finds them right, else 0; other
    steps, and those on which it fails, get nan.

    `answers` are the references by question; the search itself never sees them. Raises ConfigError for a
    problem without an answer.
    """

    def __init__(self, answers: Mapping[str, str], grader: Grader = MATH) -> None:
        self._answers = answers
        self._grader = grader

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        answer = reference_of(problem, self._answers)
        before = joined_text(prefix)

        def mark_of(step: Step) -> Mark:
            return mark(self._grader, problem, before + step.text, reference=answer) if step.ends else Mark(None)

        marks = [await asyncio.to_thread(mark_of, step) for step in candidates]
        scores = [math.nan if outcome.right is None else float(outcome.right) for outcome in marks]
        error = next((outcome.error for outcome in marks if outcome.error), "")
        return scored_verdict(scores, certain, Usage(), seed=seed, missing="no_signal", error=error)


def reference_of(problem: Problem, answers: Mapping[str, str]) -> str:
    """Return the problem's reference answer, "" if its environment knows it alone. Raises ConfigError for another one
    without."""
    if problem.question not in answers and not problem.is_scored_by_environment:
        raise ConfigError(f"judge.kind: problem '{problem.id}' has no 'answer', which this judge needs")
    return answers.get(problem.question, "")
