"""Answers as mathematics."""

from __future__ import annotations

from stepagent.answers import final_answer, same_answer
from stepagent.graders.by_answer import AnswerGrader


class MathGrader(AnswerGrader):
    """Grader of numbers, formulas, lists, choices and words, by their value (docs/answers.md)."""

    def answer(self, solution: str) -> str | None:
        """See AnswerReader."""
        return final_answer(solution)

    def same(self, first: str, second: str) -> bool:
        """See AnswerReader."""
        return same_answer(first, second)
