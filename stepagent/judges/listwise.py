"""A ranking of all candidates in one reply, asked for in two orders against position bias."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated

from pydantic import Field

from stepagent.config.prompts import RankingPrompt, load_ranking_prompt
from stepagent.config.settings import Positive
from stepagent.errors import BackendError
from stepagent.interfaces import Backend, model_name
from stepagent.judges.comparisons import tally
from stepagent.judges.wording import unescaped, without_closing
from stepagent.seeds import derive_seed
from stepagent.tree import joined_text
from stepagent.types import Completion, Problem, Prompt, Sampling, Step, Usage, Verdict, Vote, VoteOutcome

_RANKING = re.compile(r"\[?\d+\]?(?:\s*>\s*\[?\d+\]?)*\Z")


class ListwiseJudge:
    """Judge that reads two rankings such as "[2] > [1] > [3]" (arXiv 2304.09542), one of all candidates in a
    random order and one in its reverse.

    Every pair is thereby seen in both positions, and its votes are added up as pairwise ones are, with two
    calls for w candidates. The prompt file needs {question}, {prefix}, {candidates}.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: RankingPrompt = "judge_listwise",
        temperature: Annotated[float, Field(ge=0)] = 0.0,
        *,
        max_tokens: Positive = 1024,
        criteria: str = "",
    ) -> None:
        self._backend = backend
        self._template = load_ranking_prompt(prompt, criteria)
        self._temperature = temperature
        self._max_tokens = max_tokens

    def most(self, width: int) -> dict[str, Usage]:
        """Return the most that one call can sample, by model."""
        return {model_name(self._backend): Usage(2, 0, 2 * self._max_tokens)}

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        order = list(range(len(candidates)))
        random.Random(seed).shuffle(order)

        async def rank(listing: Sequence[int]) -> tuple[list[Vote], Usage]:
            texts = "\n\n".join(f"[{n}]\n{candidates[i].content}" for n, i in enumerate(listing, start=1))
            values = {
                "question": problem.question,
                "prefix": joined_text(prefix),
                "candidates": texts,
            }
            sampling = Sampling(
                temperature=self._temperature, max_tokens=self._max_tokens, seed=derive_seed(seed, *listing)
            )
            pairs = list(combinations(listing, 2))
            try:
                reply = await self._backend.complete(Prompt(self._template.messages(values)), sampling)
            except BackendError as error:
                return [Vote(a, b, "error", str(error)) for a, b in pairs], Usage()
            choice = reply.choices[0]
            ranking = parse_ranking(choice, len(listing))
            if ranking is None:
                return [Vote(a, b, "unparsed", choice.text) for a, b in pairs], reply.usage
            rank_of = {listing[number - 1]: rank for rank, number in enumerate(ranking)}

            def better(a: int, b: int) -> VoteOutcome:
                return "first" if rank_of[a] < rank_of[b] else "second"

            replies = [choice.text, *[""] * len(pairs)]  # the first vote alone keeps the text, to save space
            votes = [Vote(a, b, better(a, b), text) for (a, b), text in zip(pairs, replies, strict=False)]
            return votes, reply.usage

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(rank(listing)) for listing in (order, order[::-1])]
        votes = [vote for task in tasks for vote in task.result()[0]]
        usage = sum((task.result()[1] for task in tasks), Usage())
        return tally(len(candidates), votes, usage, seed=seed)


def parse_ranking(choice: Completion, count: int) -> list[int] | None:
    """Return the ranking in the reply's last line, best first, as numbers from 1 to `count`; None unless it
    names each number once."""
    if choice.finish_reason != "end":
        return None
    lines = [line for line in unescaped(without_closing(choice.text)).splitlines() if line.strip()]
    ranking = _RANKING.search(lines[-1] if lines else "")
    if not ranking:
        return None
    numbers = [int(number) for number in re.findall(r"\d+", ranking[0])]
    return numbers if sorted(numbers) == list(range(1, count + 1)) else None
