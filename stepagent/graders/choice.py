"""Letters of multiple choice."""

from __future__ import annotations

from stepagent.answers import answer_text, final_answer
from stepagent.answers.comparing import choice_letters
from stepagent.graders.by_answer import AnswerGrader


class ChoiceGrader(AnswerGrader):
    """Grader of multiple choice: the letter, or the letters in any order; an answer without one is wrong."""

    def answer(self, solution: str) -> str | None:
        """Return the letters, such as "A" or "A, C"; None for an answer that is no choice."""
        readings = (final_answer(solution), answer_text(solution))
        letters = next((choice for text in readings if text and (choice := _letters(text))), None)
        return ", ".join(letters) if letters else None

    def same(self, first: str, second: str) -> bool:
        """See AnswerReader. Raises ValueError for a reference that names no letter."""
        letters = _letters(second)
        if letters is None:
            raise ValueError("the reference names no letter")
        return _letters(first) == letters


def _letters(text: str) -> tuple[str, ...] | None:
    """Return the letters of a choice; one that is written small counts as well where it stands alone."""
    bare = text.strip("().* ")
    return choice_letters(bare.upper() if len(bare) == 1 else text)
