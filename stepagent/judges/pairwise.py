"""The paper's step-wise LLM-as-a-judge: two candidate next steps, rationale first, verdict token last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from stepagent.config import Positive
from stepagent.errors import BackendError
from stepagent.interfaces import Backend
from stepagent.judges.comparisons import all_pairs_both_seats
from stepagent.prompting import Labels, load_judge_prompt
from stepagent.seeds import derive_seed
from stepagent.types import (
    Problem,
    Prompt,
    Sampling,
    Step,
    Usage,
    Verdict,
    Vote,
    VoteOutcome,
)


class PairwiseJudge:
    """Asks a backend which of two steps is better, for every pair in both seats (arXiv 2503.03746, Eq. 2).

    The prompt file needs {question}, {prefix}, {first}, {second} and front matter with the verdict
    labels. Replies are kept in the votes.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: str = "judge_pairwise",
        temperature: Annotated[float, Field(ge=0)] = 0.0,
        max_tokens: Positive = 1024,
    ) -> None:
        self._backend = backend
        self._template, self._labels = load_judge_prompt(prompt)
        self._temperature = temperature
        self._max_tokens = max_tokens

    def most(self, width: int) -> dict[str, Usage]:
        """The most that one call can sample, by model."""
        calls = width * (width - 1)
        return {getattr(self._backend, "model", ""): Usage(calls, 0, calls * self._max_tokens)}

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """See Judge."""

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            values = {
                "question": problem.question,
                "prefix": "".join(step.text for step in prefix),
                "first": candidates[first].content,
                "second": candidates[second].content,
            }
            sampling = Sampling(
                temperature=self._temperature,
                max_tokens=self._max_tokens,
                seed=derive_seed(seed, first, second),
            )
            try:
                reply = await self._backend.complete(Prompt(self._template.messages(values)), sampling)
            except BackendError as error:
                return Vote(first, second, "error", str(error)), Usage()
            choice = reply.choices[0]
            outcome: VoteOutcome = "unparsed"
            if choice.finish_reason == "end":  # a cut-off rationale has not reached its verdict
                outcome = parse_verdict(choice.text, self._labels)
            return Vote(first, second, outcome, choice.text), reply.usage

        return await all_pairs_both_seats(len(candidates), compare, seed)


def parse_verdict(reply: str, labels: Labels) -> VoteOutcome:
    """The last label in the reply binds: a rationale may quote a candidate that holds one.

    No label, or text after the last one (white space and full stop aside), is "unparsed".
    """
    named: list[tuple[int, str, VoteOutcome]] = [
        (reply.rfind(labels.first), labels.first, "first"),
        (reply.rfind(labels.second), labels.second, "second"),
    ]
    if labels.tie:
        named.append((reply.rfind(labels.tie), labels.tie, "tie"))
    position, label, outcome = max(named)
    if position < 0 or reply[position + len(label) :].strip(" \n\t.*`\"'"):
        return "unparsed"
    return outcome
