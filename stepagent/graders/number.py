"""Numbers within a tolerance."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated

from pydantic import Field

from stepagent.answers import final_answer
from stepagent.answers.comparing import normal, number
from stepagent.graders.by_answer import AnswerGrader

Tolerance = Annotated[float, Field(ge=0)]


class NumberGrader(AnswerGrader):
    """Grader of numbers: right if the answer is within `absolute` of the reference, or within the share `relative` of
    its size. Units, currencies and percent signs are left aside."""

    def __init__(self, relative: Tolerance = 0.0, absolute: Tolerance = 0.0) -> None:
        self._relative = Fraction(relative)
        self._absolute = Fraction(absolute)

    def answer(self, solution: str) -> str | None:
        """Return the answer if it is a number; None for another one."""
        answer = final_answer(solution)
        return answer if answer is not None and _number(answer) is not None else None

    def same(self, first: str, second: str) -> bool:
        """See AnswerReader. Raises ValueError for a reference that is no number."""
        value, reference = _number(first), _number(second)
        if reference is None:
            raise ValueError("the reference is no number")
        return value is not None and abs(value - reference) <= max(self._absolute, self._relative * abs(reference))


def _number(text: str) -> Fraction | None:
    return number(normal(text))
