"""Final answers: which one a solution states (`reading`), and whether two are the same (`comparing`).

For evaluation, votes and rollouts; no rule of the loop reads a reference.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepagent.answers.comparing import same_answer
from stepagent.answers.reading import final_answer, stated_answer

__all__ = ["final_answer", "is_correct", "is_final", "majority", "same_answer", "stated_answer"]


def is_correct(solution: str, reference: str) -> bool:
    """Return whether the solution's final answer is the `reference`."""
    answer = final_answer(solution)
    return answer is not None and same_answer(answer, reference)


def is_final(reference: str) -> bool:
    """Return whether a reference can be reached: it is an answer, not a whole solution that marks one, or lines of
    text."""
    stated = stated_answer(reference)
    if stated is not None:
        return same_answer(stated, reference)
    return "\n" not in reference.strip() or "\\" in reference


def majority(solutions: Sequence[str]) -> list[int]:
    """Return the solutions (indices, in order) that reach the answer of most; empty if none states an answer."""
    groups: dict[str, list[int]] = {}
    for index, solution in enumerate(solutions):
        if answer := final_answer(solution):
            equal = next((group for group in groups if same_answer(answer, group)), answer)
            groups.setdefault(equal, []).append(index)
    return max(groups.values(), key=len, default=[])
