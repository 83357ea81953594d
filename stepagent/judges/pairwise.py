"""The paper's step-wise LLM-as-a-judge: two candidate next steps, rationale first, verdict token last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from stepagent.config.prompts import JudgePrompt, Labels, comparison_values, load_judge_prompt
from stepagent.config.settings import Positive
from stepagent.errors import BackendError
from stepagent.interfaces import Backend, model_name
from stepagent.judges.comparisons import Comparisons, compare_candidates
from stepagent.judges.wording import is_closing, label_pattern, last_sentence
from stepagent.seeds import derive_seed
from stepagent.tree import joined_text
from stepagent.types import (
    Completion,
    Message,
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
    """Judge that asks a backend which of two steps is better, in both positions (arXiv 2503.03746, Eq. 2);
    `comparisons` chooses the pairs.

    The prompt file needs {question}, {prefix}, {first}, {second} and front matter with the verdict labels.
    Replies are kept in the votes. After a reply that names no verdict the judge is asked once more, for
    nothing but the verdict.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: JudgePrompt = "judge_pairwise",
        temperature: Annotated[float, Field(ge=0)] = 0.0,
        *,
        max_tokens: Positive = 1024,
        criteria: str = "",
        comparisons: Comparisons = "adaptive",
    ) -> None:
        self._backend = backend
        self._template, self._labels = load_judge_prompt(prompt, criteria)
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._comparisons: Comparisons = comparisons

    def most(self, width: int) -> dict[str, Usage]:
        """Return the most that one call can sample, by model."""
        calls = 2 * width * (width - 1)  # each may be asked for its verdict once more
        return {model_name(self._backend): Usage(calls, 0, calls * self._max_tokens)}

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            first_text, second_text = candidates[first].content, candidates[second].content
            values = comparison_values(problem.question, joined_text(prefix), first_text, second=second_text)
            sampling = Sampling(
                temperature=self._temperature,
                max_tokens=self._max_tokens,
                seed=derive_seed(seed, first, second),
            )
            messages = self._template.messages(values)
            vote, usage = Vote(first, second, "unparsed"), Usage()
            try:
                reply = await self._backend.complete(Prompt(messages), sampling)
                vote, usage = self._read(vote, reply.choices[0]), reply.usage
                if vote.outcome == "unparsed":
                    dialogue = (*messages, Message("assistant", vote.reply), self._ask_again())
                    reply = await self._backend.complete(Prompt(dialogue), sampling)
                    vote = replace(self._read(vote, reply.choices[0]), asked_again=True)
                    usage += reply.usage
            except BackendError as error:
                return replace(vote, outcome="error", reply=str(error)), usage
            return vote, usage

        return await compare_candidates(self._comparisons, len(candidates), compare, seed=seed)

    def _read(self, vote: Vote, choice: Completion) -> Vote:
        outcome: VoteOutcome = "unparsed"
        if choice.finish_reason == "end":  # a cut-off rationale has not reached its verdict
            outcome = parse_verdict(choice.text, self._labels)
        return replace(vote, outcome=outcome, reply=choice.text)

    def _ask_again(self) -> Message:
        return Message("user", f"Your verdict, and nothing else: {' or '.join(self._labels.all())}")


def parse_verdict(reply: str, labels: Labels) -> VoteOutcome:
    """Return the outcome that the reply's last label names: a rationale may quote a candidate with a label.

    No label, text after the last one (marks, brackets, tags and end tokens are none), and another label in the same
    sentence are "unparsed".
    """
    outcomes: list[tuple[str | None, VoteOutcome]] = [
        (labels.first, "first"),
        (labels.second, "second"),
        (labels.tie, "tie"),
    ]
    matches = [
        (match.start(), match.end(), outcome)
        for label, outcome in outcomes
        if label
        for match in label_pattern(label).finditer(reply)
    ]
    if not matches:
        return "unparsed"
    start, end, outcome = max(matches)
    sentence = last_sentence(reply[:start])
    is_alone = all(place < start - len(sentence) or label_outcome == outcome for place, _, label_outcome in matches)
    return outcome if is_closing(reply[end:]) and is_alone else "unparsed"
