"""Answers as text."""

from __future__ import annotations

import unicodedata

from stepagent.answers import answer_text
from stepagent.graders.by_answer import AnswerGrader


class TextGrader(AnswerGrader):
    """Grader that compares the answer's text: case, white space, and marks around it make no difference."""

    def answer(self, solution: str) -> str | None:
        """See AnswerReader."""
        return answer_text(solution)

    def same(self, first: str, second: str) -> bool:
        """See AnswerReader."""
        return _plain(first) == _plain(second)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?\"'`*“”‘’")
