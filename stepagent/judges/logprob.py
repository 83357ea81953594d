"""Pairwise by the verdict token's log-probabilities: one token a comparison, no rationale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepagent.config.prompts import Labels, load_judge_prompt
from stepagent.errors import BackendError, ConfigError
from stepagent.interfaces import Backend
from stepagent.judges.comparisons import Comparisons, compare_candidates
from stepagent.seeds import derive_seed
from stepagent.tree import joined_text
from stepagent.types import Problem, Prompt, Sampling, Step, Usage, Verdict, Vote, VoteOutcome

_ALTERNATIVES = 20  # the most that vLLM and hosted APIs give


class LogprobJudge:
    """Asks for the verdict at once and reads how likely each label is as the first token; the vote carries
    the first seat's share of the two. The labels of the prompt file must differ in their first token.

    Raises ConfigError on an endpoint without log-probabilities.
    """

    def __init__(
        self, backend: Backend, prompt: str = "judge_logprob", comparisons: Comparisons = "adaptive"
    ) -> None:
        self._backend = backend
        self._template, self._labels = load_judge_prompt(prompt)
        self._comparisons: Comparisons = comparisons

    def most(self, width: int) -> dict[str, Usage]:
        """The most that one call can sample, by model."""
        calls = width * (width - 1)
        return {getattr(self._backend, "model", ""): Usage(calls, 0, calls)}

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """See Judge."""

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            values = {
                "question": problem.question,
                "prefix": joined_text(prefix),
                "first": candidates[first].content,
                "second": candidates[second].content,
            }
            asked = Sampling(max_tokens=1, seed=derive_seed(seed, first, second), top_logprobs=_ALTERNATIVES)
            try:
                reply = await self._backend.complete(Prompt(self._template.messages(values)), asked)
            except BackendError as error:
                return Vote(first, second, "error", str(error)), Usage()
            likeliest = reply.choices[0].first
            if likeliest is None:
                raise ConfigError("judge.backend gives no log-probabilities; use judge.kind: pairwise")
            chance = first_share(likeliest, self._labels)
            outcome: VoteOutcome = "unparsed"
            if chance is not None:
                outcome = "first" if chance > 0.5 else "second" if chance < 0.5 else "tie"
            return Vote(first, second, outcome, reply.choices[0].text, chance), reply.usage

        return await compare_candidates(self._comparisons, len(candidates), compare, seed)


def first_share(likeliest: Sequence[tuple[str, float]], labels: Labels) -> float | None:
    """The first label's share of the probability of both. A token counts for a label that it begins, unless
    it begins both. None if neither is among the likeliest tokens."""
    mass = {labels.first: 0.0, labels.second: 0.0}
    for token, logprob in likeliest:
        begun = [label for label in mass if token.strip() and label.startswith(token.strip())]
        if len(begun) == 1:
            mass[begun[0]] += math.exp(logprob)
    total = sum(mass.values())
    return mass[labels.first] / total if total > 0 else None
