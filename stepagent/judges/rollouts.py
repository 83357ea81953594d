"""Monte-Carlo rollouts: a step is as good as the solutions that continue it (Math-Shepherd, 2312.08935)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from stepagent.answers import final_answer, is_correct, majority
from stepagent.config.prompts import load_prompt
from stepagent.config.settings import Positive
from stepagent.errors import BackendError
from stepagent.interfaces import Backend
from stepagent.judges.reference import reference_of
from stepagent.judges.scores import by_errors, certain, scored_verdict
from stepagent.seeds import derive_seed
from stepagent.tree import joined_ids, joined_text
from stepagent.types import Problem, Prompt, Sampling, Step, Usage, Verdict


class RolloutJudge:
    """Solves on from each candidate `rollouts` times; its score is the share of solutions that reach the
    target: the answer that most rollouts of this level reach (`majority`, no reference needed), or the
    `reference`. The margin compares the two Beta(1 + hits, 1 + misses) posteriors."""

    def __init__(
        self,
        backend: Backend,
        answers: Mapping[str, str],
        prompt: str = "solve",
        rollouts: Positive = 8,
        target: Literal["majority", "reference"] = "majority",
        temperature: Annotated[float, Field(gt=0)] = 0.8,
        top_p: Annotated[float, Field(gt=0, le=1)] = 0.95,
        max_tokens: Positive = 2048,
    ) -> None:
        self._backend = backend
        self._answers = answers
        self._template = load_prompt(prompt, ("question",))
        self._rollouts = rollouts
        self._target = target
        self._sampling = Sampling(rollouts, temperature, top_p, max_tokens)

    def most(self, width: int) -> dict[str, Usage]:
        """The most that one call can sample, by model."""
        sampled = width * self._rollouts * self._sampling.max_tokens
        return {getattr(self._backend, "model", ""): Usage(width, 0, sampled)}

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """See Judge."""
        reference = reference_of(problem, self._answers) if self._target == "reference" else None
        messages = self._template.messages({"question": problem.question})

        async def roll(index: int) -> tuple[list[str], Usage] | None:
            steps = [*prefix, candidates[index]]
            text = joined_text(steps)
            if candidates[index].ends:
                return [text] * self._rollouts, Usage()
            prompt = Prompt(messages, text, joined_ids(steps))
            sampling = replace(self._sampling, seed=derive_seed(seed, "roll", index))
            try:
                reply = await self._backend.complete(prompt, sampling)
            except BackendError:
                return None
            ended = [text + choice.text for choice in reply.choices if choice.finish_reason == "end"]
            return ended, reply.usage

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(roll(index)) for index in range(len(candidates))]
        rolled = [task.result() for task in tasks]
        usage = sum((it[1] for it in rolled if it), Usage())
        ended = [text for it in rolled if it for text in it[0]]
        target = reference or await asyncio.to_thread(_most, ended)  # comparing answers may take long
        if target is None:
            failed = all(it is None for it in rolled)
            nothing = [math.nan] * len(rolled)
            return scored_verdict(nothing, certain, usage, seed, "error" if failed else "no_signal")

        def hits_of(texts: Sequence[str]) -> int:
            return sum(is_correct(text, target) for text in texts)

        hits = [await asyncio.to_thread(hits_of, it[0]) if it else math.nan for it in rolled]
        scores = [(1 + hit) / (2 + self._rollouts) for hit in hits]
        errors = [math.sqrt(mean * (1 - mean) / (3 + self._rollouts)) for mean in scores]
        return scored_verdict(scores, by_errors(scores, errors), usage, seed, "error")


def _most(solutions: Sequence[str]) -> str | None:
    found = majority(solutions)
    return final_answer(solutions[found[0]]) if found else None
