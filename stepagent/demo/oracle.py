"""Who knows the arithmetic world's right answers: a judge (a control, and the labels of EFT data) and the
marker who writes judgements."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from stepagent.demo.world import FIRST, SECOND, correct_line, judgement, line_is_right, result
from stepagent.errors import BackendError
from stepagent.judges.comparisons import all_pairs_both_seats
from stepagent.seeds import derive_seed
from stepagent.types import Completion, Completions, Problem, Prompt, Sampling, Step, Usage, Verdict, Vote


class OracleJudge:
    """Prefers a right line to a wrong one; two right or two wrong ones are a tie. Asks no model."""

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """See Judge."""
        before = [step.text for step in prefix]
        right = [line_is_right(problem.question, before, step.content) for step in candidates]

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            if right[first] == right[second]:
                return Vote(first, second, "tie"), Usage()
            return Vote(first, second, "first" if right[first] else "second"), Usage()

        return await all_pairs_both_seats(len(candidates), compare, seed)


_ASKED = re.compile(
    r"(?P<question>[^\n]*)\n(?P<prefix>.*?)\|A (?P<first>[^\n]*)\n\|B (?P<second>[^\n]*)", re.DOTALL
)


class Marker:
    """A backend that writes the judgement of a person who marks two lines (prompt `demo_judge`), at best
    carefully. With chance `wrong` the verdict is not what the marks say, whoever sits where; with chance
    `first_seat` it is the first one, whatever the marks say."""

    def __init__(self, wrong: float = 0.0, first_seat: float = 0.0) -> None:
        self._wrong = wrong
        self._first_seat = first_seat

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        asked = _ASKED.fullmatch(prompt.messages[-1].content)
        if asked is None:
            raise BackendError("the marker is asked for two lines in the words of the prompt demo_judge")
        question, first, second = asked["question"], asked["first"], asked["second"]
        prefix = asked["prefix"].split("\n")[:-1]
        try:
            left = result(correct_line(question, prefix)) is None  # the world, and its two digits
        except ValueError:
            left = True
        if left:
            return _says("?")
        text = judgement(question, prefix, first, second)
        errs = random.Random(derive_seed("marker", question, asked["prefix"], *sorted((first, second))))
        if errs.random() < self._wrong:
            body, said = text[: -len(FIRST)], text[-len(FIRST) :]
            text = body + {FIRST: SECOND, SECOND: FIRST}.get(said, errs.choice((FIRST, SECOND)))
        if random.Random(sampling.seed).random() < self._first_seat:
            text = text[: -len(FIRST)] + FIRST
        return _says(text)


def _says(text: str) -> Completions:
    return Completions((Completion(text, "end"),), "", None, Usage(1, 0, 0))
