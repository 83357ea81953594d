"""An own grader: a number is right if it is within a share of the reference.

    python examples/own_grader.py config.yaml out

A config names it as `grader: {kind: "own_grader:Close", params: {share: 0.05}}`, with this folder on PYTHONPATH.
"""

import re
import sys

import stepagent
from stepagent import Problem


class Close:
    """Grader of numbers that may differ from the reference by a `share` of it."""

    def __init__(self, share: float = 0.05) -> None:
        self.share = share

    def grade(self, problem: Problem, solution: str) -> bool:
        numbers = re.findall(r"-?\d+(?:\.\d+)?", solution)
        reference = float(problem.answer or "nan")
        return bool(numbers) and abs(float(numbers[-1]) - reference) <= self.share * abs(reference)


if __name__ == "__main__":
    config = stepagent.load_config(sys.argv[1], ["grader={kind: own_grader:Close}"])
    evaluation = stepagent.evaluate(config, sys.argv[2])
    print(f"{evaluation.greedy_accuracy:.0%} right, {evaluation.failed_grades} without a mark")
