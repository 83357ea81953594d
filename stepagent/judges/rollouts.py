"""Monte-Carlo rollouts: a step is as good as its continuations (Math-Shepherd, arXiv 2312.08935)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from stepagent.config.prompts import SolvePrompt, load_solve_prompt
from stepagent.config.settings import Positive
from stepagent.errors import BackendError
from stepagent.graders.marking import MATH, Mark, mark, reaches, vote
from stepagent.interfaces import Backend, Grader, model_name
from stepagent.judges.reference import reference_of
from stepagent.judges.scores import by_errors, certain, scored_verdict
from stepagent.seeds import derive_seed
from stepagent.tree import context_text, joined_ids
from stepagent.types import Problem, Prompt, Sampling, Step, Thinking, Usage, Verdict, VerdictStatus


class RolloutJudge:
    """Judge that completes the solution from each candidate `rollouts` times and scores it by the share that
    reaches the target.

    The target is the answer that most rollouts of this level reach, those of a step as often as it was sampled
    (`majority`, which needs no reference), or the problem's own (`reference`). Less than the share `agreement` of the
    rollouts is no majority: then the level has no signal. A rollout on which `grader` fails does not count. A score is
    the mean of the Beta(1 + hits, 1 + misses) posterior, and the margin compares two posteriors by a normal
    approximation. `thinking` is the generator's: the steps are continued in the context in which they were sampled.
    """

    def __init__(
        self,
        backend: Backend,
        answers: Mapping[str, str],
        prompt: SolvePrompt = "solve",
        *,
        grader: Grader = MATH,
        rollouts: Positive = 8,
        target: Literal["majority", "reference"] = "majority",
        agreement: Annotated[float, Field(ge=0, le=1)] = 0.5,
        temperature: Annotated[float, Field(gt=0)] = 0.8,
        top_p: Annotated[float, Field(gt=0, le=1)] = 0.95,
        max_tokens: Positive = 2048,
        thinking: Thinking = "hidden",
    ) -> None:
        self._backend = backend
        self._answers = answers
        self._grader = grader
        self._template = load_solve_prompt(prompt)
        self._rollouts = rollouts
        self._target = target
        self._agreement = agreement
        self._thinking: Thinking = thinking
        self._sampling = Sampling(rollouts, temperature, top_p, max_tokens)

    def most(self, width: int) -> dict[str, Usage]:
        """Return the most that one call can sample, by model."""
        sampled = width * self._rollouts * self._sampling.max_tokens
        return {model_name(self._backend): Usage(width, 0, sampled)}

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        reference = reference_of(problem, self._answers) if self._target == "reference" else None
        messages = self._template.messages({"question": problem.question})

        async def roll(index: int) -> tuple[list[str], Usage] | BackendError:
            steps = [*prefix, candidates[index]]
            text = context_text(steps)
            if candidates[index].ends:
                return [text] * self._rollouts, Usage()
            prompt = Prompt(messages, text, joined_ids(steps), self._thinking)
            sampling = replace(self._sampling, seed=derive_seed(seed, "roll", index))
            try:
                reply = await self._backend.complete(prompt, sampling)
            except BackendError as failure:
                return failure
            solutions = [text + choice.text for choice in reply.choices if choice.finish_reason == "end"]
            return solutions, reply.usage

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(roll(index)) for index in range(len(candidates))]
        results = [task.result() for task in tasks]
        failures = [result for result in results if isinstance(result, BackendError)]
        error = str(failures[0]) if failures else ""
        usage = sum((result[1] for result in results if isinstance(result, tuple)), Usage())
        # A step that was sampled five times speaks for five: else a rare slip would count as much as what is usual.
        solutions = [
            text
            for candidate, result in zip(candidates, results, strict=True)
            if isinstance(result, tuple)
            for text in result[0] * candidate.count
        ]
        # In a thread, because grading may take long.
        target = reference
        if reference is None:
            votes = await asyncio.to_thread(vote, self._grader, solutions)
            error = error or votes.error
            # A chance agreement of a few says nothing of the others.
            needed = self._agreement * self._rollouts * sum(candidate.count for candidate in candidates)
            target = votes.answer if len(votes.agreeing) >= needed else None
        if target is None:
            no_scores = [math.nan] * len(results)
            missing: VerdictStatus = "error" if len(failures) == len(results) else "no_signal"
            return scored_verdict(no_scores, certain, usage, seed=seed, missing=missing, error=error)

        def marks_of(texts: Sequence[str]) -> list[Mark]:
            marks: dict[str, Mark] = {}
            for text in texts:  # an ended solution stands there as often as there are rollouts
                if text not in marks and reference is None:
                    marks[text] = reaches(self._grader, text, target)
                elif text not in marks:
                    marks[text] = mark(self._grader, problem, text, reference=reference)
            return [marks[text] for text in texts]

        scores, errors = [], []
        for result in results:
            marks = await asyncio.to_thread(marks_of, result[0]) if isinstance(result, tuple) else []
            ungraded = [outcome.error for outcome in marks if outcome.right is None]
            error = error or next(iter(ungraded), "")
            count = self._rollouts - len(ungraded)
            mean = (1 + sum(outcome.right is True for outcome in marks)) / (2 + count)
            scores.append(mean if isinstance(result, tuple) and count else math.nan)
            errors.append(math.sqrt(mean * (1 - mean) / (3 + count)))
        missing = "error" if failures else "no_signal"
        return scored_verdict(scores, by_errors(scores, errors), usage, seed=seed, missing=missing, error=error)
