"""The final answer of a solution: the table of the docs, cases after public reports, and generated sentences."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepagent.answers import final_answer, same_answer, stated_answer
from stepagent.graders.marking import MATH, vote
from stepagent.types import Problem

CASES = Path(__file__).parents[1] / "cases"
DOCS = Path(__file__).parents[2] / "docs" / "answers.md"
ROWS = re.findall(r"^\| [^|]+ \| `(.+)` \| (?:`(.+)`|none) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("text", "answer"), ROWS)
def test_the_forms_of_the_docs(text: str, answer: str) -> None:
    if answer:
        assert MATH.grade(Problem("p", "q", answer), text), final_answer(text)
    else:
        assert final_answer(text) is None


def test_the_docs_have_the_forms() -> None:
    assert len(ROWS) > 25


@pytest.mark.parametrize("line", (CASES / "answers.jsonl").read_text(encoding="utf-8").splitlines())
def test_the_answers_of_the_cases(line: str) -> None:
    case = json.loads(line)
    answer = final_answer(case["text"])
    if case["text"] == "Answer: I don't know":  # states no choice: the file's "C" cannot be read from it
        assert answer is None
    else:
        assert MATH.grade(Problem("p", "q", case["right"]), case["text"]), answer
    assert answer is None or answer != case.get("wrong")


REPORTED = [
    ("The answer is C = 5.", "5", "C"),
    ("Answer: I think it is C", "C", "I"),
    ("So x = 3/4.", "3/4", "4"),
    ("The sum is\n\\[ S = 4032\\pi \\]", "4032\\pi", "4032"),
    ("The answer is option B.", "B", None),
    ("\\boxed{C)}", "C", None),
    ("\\boxed{E: a risk score}", "E", None),
    ("Thus the answer is\n\\[\nx = 42\n\\]", "42", None),
    ("**Final Answer:**\n$$\n\\frac{1}{2}\n$$", "1/2", None),
    ("Hence $x=\\boxed 9$ is what we want, after 3 tries.", "9", "3"),
    ("So \\boxed {5} is it, as 3 > 2.", "5", "2"),
    ("Final Answer: The final answer is (B). I hope it is correct.", "B", None),
    ("ANSWER: C", "C", None),
    ("\\fbox{42}", "42", None),
    ("#### 7\nThe answer above is what we want.", "7", None),
    ("The final answer is **B) 12**", "B", "12"),
    ("The answer to the question is 42", "42", None),
    ("Answer: 2/3 of the cake", "2/3", "2"),
    ("So she paid $18 and $20 in all: $38.", "38", "18"),
    ("The answer is 20% of 50, which is 10.", "10", "20%"),
    ("The answer is 7. This answer is correct.", "7", None),
    ("\\boxed{1}\\text{ and }\\boxed{2}", "1, 2", "2"),
    ("A: 18", "18", "A"),
    ("She has 9 left. In total she needs 16 toys in all.", "16", "9"),
    ("reasoning </think> The answer is 9<|im_end|>", "9", None),
    ("\\boxed{\\left\\{ 1, 2 \\right\\}}", "\\{1, 2\\}", None),
    ("The answer is $\\frac{1}{2}$ and $\\frac{3}{4}$.", "3/4, 1/2", "\\frac{1}{2}"),
    ("Answer: 5 - 3 = 2", "2", "5"),
]


@pytest.mark.parametrize(("text", "right", "wrong"), REPORTED)
def test_the_whole_stated_value(text: str, right: str, wrong: str | None) -> None:
    assert MATH.grade(Problem("p", "q", right), text), final_answer(text)
    assert final_answer(text) != wrong or wrong is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n ",
        "Answer: I don't know",
        "The answer is below.",
        "The answer is between 3 and 5.",
        "\\boxed{}",
        "\\boxed{1",
        "<think>the answer is 5",
        "#### Step 2: Compute",
        "#### 2. Compute the sum",
        "no idea",
    ],
)
def test_what_cannot_be_read_is_none(text: str) -> None:
    assert final_answer(text) is None


def test_a_reference_is_marked_or_none() -> None:
    assert stated_answer("4 + 5 = 9\n#### 9") == "9"
    assert stated_answer("so \\boxed{\\frac{1}{2}}") == "\\frac{1}{2}"
    assert stated_answer("The answer is 9.") is None
    assert stated_answer("#### Sum\nThen we add.") is None


def test_the_majority_is_of_equal_answers_and_silent_ones_do_not_vote() -> None:
    texts = ["\\boxed{0.5}", "The answer is 1/2.", "\\boxed{2}", "no idea", "hm"]
    assert list(vote(MATH, texts).agreeing) == [0, 1]
    assert list(vote(MATH, ["no idea", ""]).agreeing) == []


def number_forms() -> st.SearchStrategy[tuple[str, Fraction]]:
    """Texts of values in their forms, with the value."""
    integers = st.integers(0, 10**7)
    small = st.integers(2, 60)

    def mixed(whole: int, top: int, bottom: int) -> tuple[str, Fraction]:
        top, bottom = sorted((top, bottom + 60))
        return f"{whole} {top}/{bottom}", whole + Fraction(top, bottom)

    return st.one_of(
        integers.map(lambda n: (str(n), Fraction(n))),
        integers.map(lambda n: (f"{n:,}", Fraction(n))),
        integers.map(lambda n: (f"-{n}", Fraction(-n))),
        integers.map(lambda n: (f"\N{MINUS SIGN}{n}", Fraction(-n))),
        st.tuples(integers, st.integers(0, 99)).map(lambda p: (f"{p[0]}.{p[1]:02d}", p[0] + Fraction(p[1], 100))),
        st.tuples(small, small).map(lambda p: (f"{p[0]}/{p[1]}", Fraction(*p))),
        st.tuples(small, small).map(lambda p: (f"\\frac{{{p[0]}}}{{{p[1]}}}", Fraction(*p))),
        st.tuples(small, small).map(lambda p: (f"$\\dfrac{{{p[0]}}}{{{p[1]}}}$", Fraction(*p))),
        st.tuples(st.integers(1, 99), small, small).map(lambda t: mixed(*t)),
        integers.map(lambda n: (f"${n:,}", Fraction(n))),
        integers.map(lambda n: (f"\\({n}\\)", Fraction(n))),
    )


SENTENCES = [
    "The answer is {}.",
    "Answer: {}",
    "So we get 3 + 4.\n\nThe final answer is {}",
    "**Answer:** {}",
    "Hence 5 of 7 remain.\n#### {}",
    "Step 1: 2 + 2 = 4\nTherefore, the answer is **{}**.",
    "so $\\boxed{{{}}}$ in 12 tries.",
    "The answer is {}, since 3 < 5.",
    "The answer is {} apples.",
    "<think>Is it 99? The answer is 98.</think>The answer is {}.<|im_end|>",
    "After 2 steps x = {}.",
    "The answer is\n{}",
]


@settings(max_examples=400, deadline=None)
@given(number_forms(), st.sampled_from(SENTENCES))
def test_a_stated_value_is_read_whole_in_any_sentence(form: tuple[str, Fraction], sentence: str) -> None:
    text, value = form
    if "boxed" in sentence:
        text = text.strip("$") if text.endswith("$") else text.removeprefix("$")
    answer = final_answer(sentence.format(text))
    assert answer is not None
    assert same_answer(answer, f"{value.numerator}/{value.denominator}"), answer
