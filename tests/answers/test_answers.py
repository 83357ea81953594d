"""Final answers: found in a solution, compared with a reference, counted."""

from __future__ import annotations

import time

import pytest

from stepagent.answers import final_answer, same_answer
from stepagent.graders.marking import MATH, vote
from stepagent.types import Problem


@pytest.mark.parametrize(
    ("solution", "reference", "right"),
    [
        ("Step 1: x\nStep 2: so \\boxed{\\frac{1}{2}}", "0.5", True),
        ("first \\boxed{3}, then \\boxed{4}", "4", True),
        ("\\boxed{4", "4", False),
        ("61-22=39\n=39", "39", True),
        ("61-22=39\n=49", "39", False),
        ("The answer is 1,234.", "1234", True),
        ("nothing here", "4", False),
        ("", "4", False),
        ("\\boxed{(1, 2)}", "(1,2)", True),
        ("\\boxed{1,2}", "12", False),
        ("\\boxed{(1,2)}", "(12)", False),
        ("\\boxed{12,345}", "12345", True),
    ],
)
def test_final_answers(solution: str, reference: str, right: bool) -> None:
    assert MATH.grade(Problem("p", "q", reference), solution) is right


def test_an_open_box_is_no_answer() -> None:
    assert final_answer("\\boxed{4") is None


@pytest.mark.parametrize(
    ("solution", "reference", "right"),
    [
        ("so the answer is (B).", "B", True),
        ("Answer: C", "(C)", True),
        ("so \\boxed{\\text{D}}", "D", True),
        ("thus\n(A)", "A", True),
        ("Answer: C", "B", False),
        ("The answer is Paris.", "paris", True),
        ("The answer is Rome.", "Paris", False),
        ("#### 72", "72", True),
        ("The answer is: 25%", "25", True),
        ("The answer is 3 apples", "3", True),
        ("\\boxed{x^2+2x+1}", "(x+1)^2", True),
        ("\\boxed{\\{1,2\\}}", "\\{2,1\\}", True),
        ("\\boxed{\\sqrt{8}}", "2\\sqrt{2}", True),
        ("Answer is 5 or 6", "6", False),
    ],
)
def test_answers_of_every_kind(solution: str, reference: str, right: bool) -> None:
    assert MATH.grade(Problem("p", "q", reference), solution) is right


def test_a_comparison_that_does_not_end_is_cut_off_and_the_next_one_works() -> None:
    start = time.monotonic()
    assert not same_answer("9^{9^{9^{9^{9}}}}-1", "9^{9^{9^{9^{9}}}}+1")
    assert time.monotonic() - start < 30
    assert same_answer("\\frac{1}{2}", "0.5")


def test_the_majority_counts_equal_answers_together() -> None:
    assert list(
        vote(MATH, ["Answer: 1/2", "\\boxed{0.5}", "Answer: 7", "Answer: 7", "\\boxed{\\frac12}"]).agreeing
    ) == [
        0,
        1,
        4,
    ]
    assert final_answer("so nothing") is None
