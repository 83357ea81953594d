"""Oracles of the arithmetic world: a judge for controls and for the labels of EFT data, and the marker that
writes judgements."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from stepagent.demo.world import FIRST, SECOND, correct_line, judgement, line_is_right, result
from stepagent.errors import BackendError
from stepagent.judges.comparisons import all_pairs
from stepagent.seeds import derive_seed
from stepagent.types import Completion, Completions, Problem, Prompt, Sampling, Step, Usage, Verdict, Vote


class OracleJudge:
    """Judge that prefers a right line to a wrong one, calls two of a kind a tie, and asks no model."""

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        before = [step.text for step in prefix]
        right = [line_is_right(problem.question, before, step.content) for step in candidates]

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            if right[first] == right[second]:
                return Vote(first, second, "tie"), Usage()
            return Vote(first, second, "first" if right[first] else "second"), Usage()

        return await all_pairs(len(candidates), compare, seed)


_QUESTION = re.compile(r"(?P<question>[^\n]*)\n(?P<prefix>.*?)\|A (?P<first>[^\n]*)\n\|B (?P<second>[^\n]*)", re.DOTALL)


class Marker:
    """Backend that writes the judgement of a person who marks two lines (prompt `demo_judge`).

    With chance `wrong` the verdict contradicts the marks, in both positions of a pair alike; with chance
    `position_bias` it is for the first position, whatever the marks (position bias). Raises BackendError for
    another prompt.
    """

    def __init__(self, wrong: float = 0.0, position_bias: float = 0.0) -> None:
        self._wrong = wrong
        self._position_bias = position_bias

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        match = _QUESTION.fullmatch(prompt.messages[-1].content)
        if match is None:
            raise BackendError("the marker is asked for two lines in the words of the prompt demo_judge")
        question, first, second = match["question"], match["first"], match["second"]
        prefix = match["prefix"].split("\n")[:-1]
        try:
            unmarkable = result(correct_line(question, prefix)) is None  # a value of more than two digits
        except ValueError:
            unmarkable = True
        if unmarkable:
            return _completions("?")
        text = judgement(question, prefix, first, second=second)
        # Seeded by the pair in sorted order, so that a wrong opinion is the same in both positions.
        rng = random.Random(derive_seed("marker", question, match["prefix"], *sorted((first, second))))
        if rng.random() < self._wrong:
            body, label = text[: -len(FIRST)], text[-len(FIRST) :]
            text = body + {FIRST: SECOND, SECOND: FIRST}.get(label, rng.choice((FIRST, SECOND)))
        if random.Random(sampling.seed).random() < self._position_bias:
            text = text[: -len(FIRST)] + FIRST
        return _completions(text)


def _completions(text: str) -> Completions:
    return Completions((Completion(text, "end"),), "", None, Usage(1, 0, 0))
