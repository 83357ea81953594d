"""A ranking of all candidates in one reply, asked for in two orders so that no place is favoured."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated

from pydantic import Field

from stepagent.config.prompts import load_prompt
from stepagent.config.settings import Positive
from stepagent.errors import BackendError
from stepagent.interfaces import Backend
from stepagent.judges.comparisons import tally
from stepagent.seeds import derive_seed
from stepagent.tree import joined_text
from stepagent.types import Completion, Problem, Prompt, Sampling, Step, Usage, Verdict, Vote, VoteOutcome


class ListwiseJudge:
    """Shows all candidates, numbered, in a random order and in its reverse, and reads two rankings such as
    "[2] > [1] > [3]" (arXiv 2304.09542). Every pair thereby sits in both seats, and votes are added up as
    pairwise ones are: two calls for w candidates. The prompt file needs {question}, {prefix}, {candidates}.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: str = "judge_listwise",
        temperature: Annotated[float, Field(ge=0)] = 0.0,
        max_tokens: Positive = 1024,
    ) -> None:
        self._backend = backend
        self._template = load_prompt(prompt, ("question", "prefix", "candidates"))
        self._temperature = temperature
        self._max_tokens = max_tokens

    def most(self, width: int) -> dict[str, Usage]:
        """The most that one call can sample, by model."""
        return {getattr(self._backend, "model", ""): Usage(2, 0, 2 * self._max_tokens)}

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """See Judge."""
        order = list(range(len(candidates)))
        random.Random(seed).shuffle(order)

        async def rank(shown: Sequence[int]) -> tuple[list[Vote], Usage]:
            listed = "\n\n".join(f"[{n}]\n{candidates[i].content}" for n, i in enumerate(shown, start=1))
            values = {
                "question": problem.question,
                "prefix": joined_text(prefix),
                "candidates": listed,
            }
            sampling = Sampling(
                temperature=self._temperature, max_tokens=self._max_tokens, seed=derive_seed(seed, *shown)
            )
            seats = list(combinations(shown, 2))
            try:
                reply = await self._backend.complete(Prompt(self._template.messages(values)), sampling)
            except BackendError as error:
                return [Vote(a, b, "error", str(error)) for a, b in seats], Usage()
            choice = reply.choices[0]
            ranking = parse_ranking(choice, len(shown))
            if ranking is None:
                return [Vote(a, b, "unparsed", choice.text) for a, b in seats], reply.usage
            place = {shown[number - 1]: rank for rank, number in enumerate(ranking)}

            def better(a: int, b: int) -> VoteOutcome:
                return "first" if place[a] < place[b] else "second"

            kept = [choice.text, *[""] * len(seats)]  # once is enough
            votes = [Vote(a, b, better(a, b), text) for (a, b), text in zip(seats, kept, strict=False)]
            return votes, reply.usage

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(rank(shown)) for shown in (order, order[::-1])]
        votes = [vote for task in tasks for vote in task.result()[0]]
        usage = sum((task.result()[1] for task in tasks), Usage())
        return tally(len(candidates), votes, usage, seed)


def parse_ranking(choice: Completion, count: int) -> list[int] | None:
    """The numbers of the reply's last line that ranks, best first; None unless it names each once."""
    if choice.finish_reason != "end":
        return None
    lines = [line for line in choice.text.splitlines() if line.strip()]
    if not lines or not re.fullmatch(r"[^\[]*\[\d+\](\s*>\s*\[\d+\])*[\s.*]*", lines[-1]):
        return None
    numbers = [int(number) for number in re.findall(r"\[(\d+)\]", lines[-1])]
    return numbers if sorted(numbers) == list(range(1, count + 1)) else None
