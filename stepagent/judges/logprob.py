"""Pairwise judging by the verdict token's log-probabilities: one token a comparison, no rationale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepagent.backends.thoughts import opened_by
from stepagent.config.prompts import JudgePrompt, Labels, comparison_values, load_judge_prompt
from stepagent.errors import BackendError, ConfigError
from stepagent.interfaces import Backend, model_name
from stepagent.judges.comparisons import Comparisons, compare_candidates
from stepagent.seeds import derive_seed
from stepagent.tree import joined_text
from stepagent.types import Problem, Prompt, Sampling, Step, Usage, Verdict, Vote, VoteOutcome

_ALTERNATIVES = 20  # the most that vLLM and hosted APIs give
_THINKS = (
    "the judge's model opens its reply with a thought, so that its first token is no verdict; ask it not to think "
    "(backend.extra_body), or judge with kind: pairwise"
)


class LogprobJudge:
    """Judge that asks for the verdict at once and reads the probability of each label as the first token.

    A vote carries the share of the first position in the probability of both labels. The labels of the
    prompt file must differ in their first token. Raises ConfigError on an endpoint without log-probabilities.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: JudgePrompt = "judge_logprob",
        comparisons: Comparisons = "adaptive",
        *,
        criteria: str = "",
    ) -> None:
        self._backend = backend
        self._template, self._labels = load_judge_prompt(prompt, criteria)
        self._comparisons: Comparisons = comparisons

    def most(self, width: int) -> dict[str, Usage]:
        """Return the most that one call can sample, by model."""
        calls = width * (width - 1)
        return {model_name(self._backend): Usage(calls, 0, calls)}

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            first_text, second_text = candidates[first].content, candidates[second].content
            values = comparison_values(problem.question, joined_text(prefix), first_text, second=second_text)
            sampling = Sampling(max_tokens=1, seed=derive_seed(seed, first, second), top_logprobs=_ALTERNATIVES)
            try:
                reply = await self._backend.complete(Prompt(self._template.messages(values)), sampling)
            except BackendError as error:
                return Vote(first, second, "error", str(error)), Usage()
            likeliest = reply.choices[0].first
            if likeliest is None:
                raise ConfigError("judge.backend gives no log-probabilities; use judge.kind: pairwise")
            chance = first_share(likeliest, self._labels)
            if chance is None and likeliest and opened_by(max(likeliest, key=lambda token: token[1])[0]):
                return Vote(first, second, "error", _THINKS), reply.usage
            outcome: VoteOutcome = "unparsed"
            if chance is not None:
                outcome = "first" if chance > 0.5 else "second" if chance < 0.5 else "tie"
            return Vote(first, second, outcome, reply=reply.choices[0].text, probability=chance), reply.usage

        return await compare_candidates(self._comparisons, len(candidates), compare, seed=seed)


def first_share(likeliest: Sequence[tuple[str, float]], labels: Labels) -> float | None:
    """Return the first label's share of the probability of both labels; None if neither is among the
    likeliest tokens.

    A token counts for the label that begins with it, unless both labels do.
    """
    mass = {labels.first: 0.0, labels.second: 0.0}
    for token, logprob in likeliest:
        matches = [label for label in mass if token.strip() and label.startswith(token.strip())]
        if len(matches) == 1:
            mass[matches[0]] += math.exp(logprob)
    total = sum(mass.values())
    return mass[labels.first] / total if total > 0 else None
