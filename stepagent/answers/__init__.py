"""Final answers: which one a solution states (`reading`), and whether two are the same (`comparing`).

The graders are made of them; no rule of the loop reads a reference.
"""

from __future__ import annotations

from stepagent.answers.comparing import same_answer
from stepagent.answers.reading import answer_text, final_answer, readings, stated_answer, without_thoughts

__all__ = ["answer_text", "final_answer", "is_final", "readings", "same_answer", "stated_answer", "without_thoughts"]


def is_final(reference: str) -> bool:
    """Return whether a reference is an answer, not a whole solution that marks one, or lines of text, which no final
    answer equals."""
    stated = stated_answer(reference)
    if stated is not None:
        return same_answer(stated, reference)
    return "\n" not in reference.strip() or "\\" in reference
