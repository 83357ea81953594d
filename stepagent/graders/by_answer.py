"""Base of the graders that read a final answer and compare it with the reference."""

from __future__ import annotations

from stepagent.types import Problem


class AnswerGrader:
    """Grader that reads an answer off the solution. A subclass implements `answer` and `same`."""

    def grade(self, problem: Problem, solution: str) -> bool:
        """See Grader. Raises ValueError for a problem without a reference answer."""
        if problem.answer is None:
            raise ValueError("the problem has no 'answer' to compare with")
        answer = self.answer(solution)
        return answer is not None and self.same(answer, problem.answer)

    def answer(self, solution: str) -> str | None:
        """See AnswerReader."""
        raise NotImplementedError

    def same(self, first: str, second: str) -> bool:
        """See AnswerReader; `second` is the reference where there is one."""
        raise NotImplementedError
