"""A score for each candidate on its own, by a rubric (LLM-as-a-judge single grading, arXiv 2306.05685)."""

from __future__ import annotations

import asyncio
import math
import re
import statistics
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from stepagent.config.prompts import Scale, load_rubric_prompt
from stepagent.config.settings import Positive
from stepagent.errors import BackendError
from stepagent.interfaces import Backend
from stepagent.judges.scores import by_errors, scored_verdict
from stepagent.seeds import derive_seed
from stepagent.tree import joined_text
from stepagent.types import Completion, Problem, Prompt, Sampling, Step, Usage, Verdict, VerdictStatus

_NOISE = 0.1  # of the scale: the standard error of one grade, where one grade is all there is


class PointwiseJudge:
    """Grades every candidate `votes` times; its score is the mean, from 0 for the scale's low end to 1 for
    its high one. The prompt file needs {question}, {prefix},
    {step} and front matter with the scale: `scale: {low: 1, high: 10, mark: "Score:"}`.

    w * votes calls instead of w(w-1), but grades of one judge are often equal, and two grades are not a
    comparison: measure it (`stepagent judge --evaluate`) before you trust it.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: str = "judge_pointwise",
        votes: Positive = 1,
        temperature: Annotated[float, Field(ge=0)] = 0.0,
        max_tokens: Positive = 1024,
    ) -> None:
        self._backend = backend
        self._template, self._scale = load_rubric_prompt(prompt)
        self._votes = votes
        self._temperature = temperature
        self._max_tokens = max_tokens

    def most(self, width: int) -> dict[str, Usage]:
        """The most that one call can sample, by model."""
        sampled = width * self._votes * self._max_tokens
        return {getattr(self._backend, "model", ""): Usage(width, 0, sampled)}

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """See Judge."""

        async def grade(index: int) -> tuple[list[float], Usage] | None:
            values = {
                "question": problem.question,
                "prefix": joined_text(prefix),
                "step": candidates[index].content,
            }
            sampling = Sampling(
                n=self._votes,
                temperature=self._temperature,
                max_tokens=self._max_tokens,
                seed=derive_seed(seed, "grade", index),
            )
            try:
                reply = await self._backend.complete(Prompt(self._template.messages(values)), sampling)
            except BackendError:
                return None
            grades = [parse_grade(choice, self._scale) for choice in reply.choices]
            return [grade for grade in grades if grade is not None], reply.usage

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(grade(index)) for index in range(len(candidates))]
        graded = [task.result() for task in tasks]
        usage = sum((it[1] for it in graded if it), Usage())
        scores = [statistics.fmean(it[0]) if it and it[0] else math.nan for it in graded]
        missing: VerdictStatus = "error" if all(it is None for it in graded) else "unparsed"
        errors = [self._error(it[0] if it else []) for it in graded]
        return scored_verdict(scores, by_errors(scores, errors), usage, seed, missing)

    def _error(self, grades: Sequence[float]) -> float:
        spread = statistics.stdev(grades) if len(grades) > 1 else 0.0
        return max(_NOISE, spread) / math.sqrt(max(1, len(grades)))


def parse_grade(choice: Completion, scale: Scale) -> float | None:
    """The number after the reply's last mark as a share of the scale; None unless the reply is whole and the
    number on the scale."""
    _, found, after = choice.text.rpartition(scale.mark)
    number = re.match(r"[\s*]*(-?\d+(?:\.\d+)?)(?:\s*/\s*\d+)?[\s.*]*\Z", after)
    if choice.finish_reason != "end" or not found or not number:
        return None
    grade = float(number[1])
    return (grade - scale.low) / (scale.high - scale.low) if scale.low <= grade <= scale.high else None
