"""The judge that recomputes calculations."""

from __future__ import annotations

import math

import pytest

from stepagent import Problem, Step
from stepagent.judges.calculator import CalculatorJudge, calculations

PROBLEM = Problem("p", "q")


def step(text: str, count: int = 1) -> Step:
    return Step(text, text.strip(), "stop", ends=False, count=count)


@pytest.mark.parametrize(
    ("text", "outcomes"),
    [
        ("48/2 = 24 clips", [True]),
        ("98 - 92 = 1", [False]),
        ("He pays $1,200 * 3 = $3,600.", [True]),
        ("10 / 3 = 3.33", [True]),
        ("10 ÷ 3 = 3.34", [False]),
        ("9 / 2 = 4", [True]),  # rounded to no digit
        ("9 * 2 = 18.04", [False]),
        ("0.1 + 0.2 = 0.3", [True]),
        ("20*.5=10 and 10 × 3 = 31", [True, False]),
        ("(2 + 3) * 4 = 20", [True]),
        ("100 - (20 + 30) = 50", [True]),
        ("2 + 3 = 5 + 1 = 6", [True, True]),  # written in one line, as people do
        ("-5 + 3 = -2", [True]),
        ("5 / 0 = 0", [False]),
        ("9 \N{MINUS SIGN} 2 = 7", [True]),
        ("2) + 3 = 5", []),  # the bracket opens elsewhere
        ("3 hours * 2 = 6 hours", []),
        ("so x = 7", []),
        ("9" * 400 + " + 1 = 7", []),
        ("1 + " * 400 + "1 = 7", []),  # too long to be read whole
        ("- 48/2 = 24", [True]),  # in a list
        ("3 times 2 - (1) + 4 = 9", [False]),
    ],
)
def test_calculations_are_recomputed(text: str, outcomes: list[bool]) -> None:
    assert [right for _, right in calculations(text)] == outcomes


async def test_the_usual_right_result_is_best_and_the_usual_slip_worst() -> None:
    """Of the same calculation: 7 + 4 is right, too, and as the other side of a pair would teach to add."""
    steps = [
        step("7 - 4 = 4", 3),
        step("7 + 4 = 11", 9),
        step("so 7-4 = 3", 2),
        step("#### 3", 5),
        step("7 - 4 = 5", 1),
        step("7 * 4 = 28", 1),
        step("7 * 4 = 21", 1),
    ]
    verdict = await CalculatorJudge().judge(PROBLEM, (), steps, seed=1)
    assert (verdict.status, verdict.best, verdict.worst, verdict.margin) == ("ok", 2, 0, 1.0)
    assert [None if math.isnan(score) else score for score in verdict.scores] == [0, None, 1, None, 0, None, None]


@pytest.mark.parametrize(
    ("texts", "best"),
    [
        ([("1 + 1 = 2", 1), ("2 * 1 = 2", 2)], 1),  # all right
        ([("1 + 1 = 3", 2), ("2 * 1 = 3", 1)], 0),  # all wrong
        ([("1 + 1 = 3", 2), ("2 * 1 = 2", 1)], 1),  # other calculations
        ([("1 + 1 = 3", 2), ("So.", 1)], 1),  # one has nothing to check
    ],
)
async def test_without_a_difference_the_search_goes_on_with_the_usual_step(
    texts: list[tuple[str, int]], best: int
) -> None:
    verdict = await CalculatorJudge().judge(PROBLEM, (), [step(*text) for text in texts], seed=1)
    assert (verdict.status, verdict.best, verdict.worst) == ("no_signal", best, None)
