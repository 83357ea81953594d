"""A judge that knows the reference answer, for data and controls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from stepagent.answers import is_correct
from stepagent.errors import ConfigError
from stepagent.judges.scores import certain, scored_verdict
from stepagent.tree import joined_text
from stepagent.types import Problem, Step, Usage, Verdict


class ReferenceJudge:
    """Judge that scores final steps by the reference answer: 1 if they reach it, else 0; other steps get nan.

    `answers` are the references by question; the search itself never sees them. Raises ConfigError for a
    problem without an answer.
    """

    def __init__(self, answers: Mapping[str, str]) -> None:
        self._answers = answers

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        answer = reference_of(problem, self._answers)
        before = joined_text(prefix)
        scores = [
            float(await asyncio.to_thread(is_correct, before + step.text, answer)) if step.ends else math.nan
            for step in candidates
        ]
        return scored_verdict(scores, certain, Usage(), seed=seed, missing="no_signal")


def reference_of(problem: Problem, answers: Mapping[str, str]) -> str:
    """Return the problem's reference answer. Raises ConfigError if there is none."""
    if problem.question not in answers:
        raise ConfigError(f"judge.kind: problem '{problem.id}' has no 'answer', which this judge needs")
    return answers[problem.question]
