"""Problems of an environment, by its library's own scoring."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from stepagent.answers import answer_text, final_answer
from stepagent.environments import Environment, open_environment
from stepagent.errors import GraderError
from stepagent.graders.math import MathGrader
from stepagent.graders.text import TextGrader
from stepagent.types import Problem

_MATH, _TEXT = MathGrader(), TextGrader()


class EnvironmentGrader:
    """Grader that asks the environment which a problem comes from; problems of files are graded as by `math`. Votes
    count equal answers, as mathematics or as text."""

    def grade(self, problem: Problem, solution: str) -> bool:
        """See Grader. Raises GraderError if the installed library is not the one that generated the problem."""
        origin = problem.metadata.get("environment")
        if origin is None:
            return _MATH.grade(problem, solution)
        settings = {key: value for key, value in origin.items() if key not in ("index", "version")}
        environment = _opened(json.dumps(settings, sort_keys=True))
        if environment.version != origin["version"]:
            raise GraderError(
                f"{origin['env']} {environment.version} is installed, but {origin['version']} generated the problem"
            )
        return environment.is_right(origin["index"], solution)

    def answer(self, solution: str) -> str | None:
        """See AnswerReader."""
        return final_answer(solution) or answer_text(solution)

    def same(self, first: str, second: str) -> bool:
        """See AnswerReader."""
        return _TEXT.same(first, second) or _MATH.same(first, second)


@cache
def _opened(settings: str) -> Environment:
    values: dict[str, Any] = json.loads(settings)
    return open_environment(values.pop("env"), values.pop("name"), **values)
