"""Equality of answers: exact, symmetric, the same whatever the form."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepagent.answers import same_answer

CASES = Path(__file__).parents[1] / "cases"

EQUAL = [
    ("(-∞,3)", "(-\\infty, 3)"), ("x = 1, y = 2", "y=2, x=1"), ("5!", "120"), ("( 1 , 2 )", "(1,2)"),
    ("11 5/6", "71/6"), ("2 1/2", "2.5"), ("π", "\\pi"), ("-$5", "-5"), ("10\\,000", "10000"), ("\\(1,234\\)", "1234"),
    ("K", "(K)"), ("√2", "\\sqrt{2}"), ("½", "0.5"), ("€18", "18"), ("C, A", "A, C"), ("0.333333", "1/3"), ("x=2", "2"),
    ("50%", "0.5"), ("50%", "50"), ("a+b", "b+a"), ("2x+3", "3+2x"), ("\\frac12", "0.5"),
    ("\\dfrac{3}{4}", "\\frac{3}{4}"), ("10^{5}", "100000"), ("3\\times10^5", "300000"),
    ("-\\frac{1}{2}", "\\frac{-1}{2}"), ("yes", "Yes"), ("2 hours", "2"), ("\\text{Evelyn}", "Evelyn"),
    ("\\pi", "3.141593"), ("y=2x+1", "2x-y+1=0"), ("5 million", "5,000,000"), ("5.0", "5"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"), ("\\{1,2\\}", "\\{2,1\\}"),
    ("(-\\infty,1)\\cup(2,3]", "(2,3]\\cup(-\\infty,1)"), ("2\\sqrt3", "2\\sqrt{3}"), ("0.\\overline{3}", "1/3"),
    ("+5", "5"), ("4\\sqrt(2)", "4\\sqrt{2}"), ("5 \\text{ cm}", "5"), ("3\\frac{1}{2}", "7/2"), ("90^\\circ", "90"),
    ("1{,}000", "1000"),
]  # fmt: skip
DIFFERENT = [
    ("5!", "5"), ("x = 1, y = 2", "x = 2, y = 1"),
    ("1 2", "12"), ("3 1/2", "31/2"), ("1+\\frac{1}{\\mathrm{e}}", "1-\\frac{1}{\\mathrm{e}}"),
    ("2516_{8}", "2516_{9}"), ("4\\sqrt(2)", "4"), ("2^{64}", "2^{64}-1"),
    ("18446744073709551616", "18446744073709551615"), ("1/2^{98}", "1/2^{99}"), ("1+i", "1-i"), ("0.33", "1/3"),
    ("(3,4)", "(4,3)"), ("(3,4)", "[3,4]"), ("yes", "no"), ("\\pi", "3.14"), ("5x", "5"), ("1 2", "1, 2"),
    ("3:4", "4:3"), ("3:4", "3/4"), ("11_{2}", "3"), ("", ""), ("A", "B"), ("-5", "5"), ("1,2", "1,2,3"),
    ("x+1", "x-1"), ("\\sqrt{2}", "1.41"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"), ("red", "blue"), ("1e5", "1e6"),
    ("the 5 cats", "the 6 cats"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_equal_in_both_orders(first: str, second: str) -> None:
    assert same_answer(first, second)
    assert same_answer(second, first)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_in_both_orders(first: str, second: str) -> None:
    assert not same_answer(first, second)
    assert not same_answer(second, first)


def forms(value: Fraction) -> list[str]:
    """The spellings of one value."""
    top, bottom = value.numerator, value.denominator
    spellings = [f"{top}/{bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"${top}/{bottom}$", f"x = {top}/{bottom}"]
    if bottom == 1:
        spellings += [str(top), f"{top:,}", f"{top}.0", f"\\({top}\\)", f"{top} apples", f"\\${top}"]
        spellings.append(f"{top}\\text{{ cm}}")
    if value > 1 and bottom > 1:
        spellings.append(f"{top // bottom} {top % bottom}/{bottom}")
    return spellings


fractions = st.builds(Fraction, st.integers(-(10**12), 10**12), st.integers(1, 1000))


@settings(max_examples=300, deadline=None)
@given(fractions, st.data())
def test_the_forms_of_one_value_are_equal(value: Fraction, data: st.DataObject) -> None:
    first, second = data.draw(st.sampled_from(forms(value))), data.draw(st.sampled_from(forms(value)))
    assert same_answer(first, first)
    assert same_answer(first, second)
    assert same_answer(second, first)


@settings(max_examples=300, deadline=None)
@given(fractions, fractions, st.data())
def test_values_that_differ_are_different_in_all_forms(value: Fraction, other: Fraction, data: st.DataObject) -> None:
    if value != other:
        first, second = data.draw(st.sampled_from(forms(value))), data.draw(st.sampled_from(forms(other)))
        assert not same_answer(first, second)


@pytest.mark.parametrize("line", (CASES / "same_answer.jsonl").read_text(encoding="utf-8").splitlines())
def test_the_pairs_of_the_cases(line: str) -> None:
    case = json.loads(line)
    assert same_answer(case["a"], case["b"]) is case["equal"]
    assert same_answer(case["b"], case["a"]) is case["equal"]
