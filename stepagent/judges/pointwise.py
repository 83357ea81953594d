"""A score for each candidate on its own, by a rubric (LLM-as-a-judge single grading, arXiv 2306.05685)."""

from __future__ import annotations

import asyncio
import math
import re
import statistics
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from stepagent.config.prompts import RubricPrompt, Scale, load_rubric_prompt
from stepagent.config.settings import Positive
from stepagent.errors import BackendError
from stepagent.interfaces import Backend, model_name
from stepagent.judges.scores import by_errors, scored_verdict
from stepagent.judges.wording import is_closing
from stepagent.seeds import derive_seed
from stepagent.tree import joined_text
from stepagent.types import Completion, Problem, Prompt, Sampling, Step, Usage, Verdict, VerdictStatus

_GRADE = re.compile(
    r"[\s*_$\\(\[{]*(?:boxed\{)?\s*(-?\d+(?:[.,]\d+)?)(?:\s*(?:/|out of)\s*\d+)?(?:\s*points?)?(.*)\Z", re.DOTALL
)
_NOISE = 0.1  # share of the scale: the least standard error of a grade, and the guess where there is one


class PointwiseJudge:
    """Judge that grades every candidate `votes` times; the score is the mean grade, from 0 at the scale's low
    end to 1 at its high end.

    The prompt file needs {question}, {prefix}, {step} and front matter with the scale:
    `scale: {low: 1, high: 10, mark: "Score:"}`. It takes w * votes samples instead of w(w-1), but grades of
    one judge are often equal, and two grades are not a comparison: measure it (`stepagent judge --evaluate`)
    before you trust it.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: RubricPrompt = "judge_pointwise",
        votes: Positive = 1,
        *,
        temperature: Annotated[float, Field(ge=0)] = 0.0,
        max_tokens: Positive = 1024,
        criteria: str = "",
    ) -> None:
        self._backend = backend
        self._template, self._scale = load_rubric_prompt(prompt, criteria)
        self._votes = votes
        self._temperature = temperature
        self._max_tokens = max_tokens

    def most(self, width: int) -> dict[str, Usage]:
        """Return the most that one call can sample, by model."""
        sampled = width * self._votes * self._max_tokens
        return {model_name(self._backend): Usage(width, 0, sampled)}

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""

        async def grade(index: int) -> tuple[list[float], Usage] | BackendError:
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
            except BackendError as failure:
                return failure
            grades = [parse_grade(choice, self._scale) for choice in reply.choices]
            return [grade for grade in grades if grade is not None], reply.usage

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(grade(index)) for index in range(len(candidates))]
        results = [task.result() for task in tasks]
        failures = [result for result in results if isinstance(result, BackendError)]
        usage = sum((result[1] for result in results if isinstance(result, tuple)), Usage())
        grades = [result[0] if isinstance(result, tuple) else [] for result in results]
        scores = [statistics.fmean(values) if values else math.nan for values in grades]
        missing: VerdictStatus = "error" if len(failures) == len(results) else "unparsed"
        error = str(failures[0]) if failures else ""
        errors = [self._error(values) for values in grades]
        return scored_verdict(scores, by_errors(scores, errors), usage, seed=seed, missing=missing, error=error)

    def _error(self, grades: Sequence[float]) -> float:
        spread = statistics.stdev(grades) if len(grades) > 1 else 0.0
        return max(_NOISE, spread) / math.sqrt(max(1, len(grades)))


def parse_grade(choice: Completion, scale: Scale) -> float | None:
    """Return the number after the reply's last mark, as a share of the scale in [0, 1]; None unless the reply
    is whole and the number on the scale."""
    marks = list(re.finditer(re.escape(scale.mark.rstrip(":")) + r"[*_]*:?", choice.text, re.IGNORECASE))
    if choice.finish_reason != "end" or not marks:
        return None
    number = _GRADE.match(choice.text[marks[-1].end() :])
    if not number or not is_closing(number[2]):
        return None
    grade = float(number[1].replace(",", "."))
    return (grade - scale.low) / (scale.high - scale.low) if scale.low <= grade <= scale.high else None
