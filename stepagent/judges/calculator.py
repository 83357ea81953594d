"""A judge that recomputes what a step calculates."""

from __future__ import annotations

import ast
import math
import operator
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from stepagent.judges.scores import certain
from stepagent.types import Problem, Step, Usage, Verdict

_NUMBER = r"\$?(?:\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,15})?|\.\d{1,15})"
_OPERAND = rf"\(?-?{_NUMBER}\)?"
_CALCULATION = re.compile(rf"(?<![\d.,])({_OPERAND}(?:\s?[-+*/]\s?{_OPERAND}){{1,15}})(?=\s?=\s?(-?{_NUMBER}))")
_CUT = re.compile(r"[\d)]\s?[-+*/]\s?\(*$")  # before an expression that is the end of a longer one
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_SIGNS = str.maketrans({"×": "*", "÷": "/", "\N{MINUS SIGN}": "-"})
_MARKS = str.maketrans({"$": None, ",": None})


class CalculatorJudge:
    """Judge that recomputes the calculations which a step writes out, such as 48/2 = 24. It asks no model and reads no
    reference answer: it knows slips, and nothing of a calculation that is right but of no use.

    A step scores 1 if all its calculations are right, 0 if one is wrong, nan if it has none. Of the right steps the
    one that was sampled most often is best, of the wrong ones worst. Where steps do not differ there is no signal,
    and the search goes on with the one that was sampled most often.
    """

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        scores = [_score(step.content) for step in candidates]
        rng = random.Random(seed)
        order = sorted(rng.sample(range(len(candidates)), len(candidates)), key=lambda i: -candidates[i].count)
        right, wrong = ([i for i in order if scores[i] == score] for score in (1.0, 0.0))
        best = next(iter(right or [i for i in order if math.isnan(scores[i])] or order), None)
        verdict = Verdict("no_signal", tuple(scores), best=best, usage=Usage(), values=tuple(scores))
        if not (right and wrong):
            return verdict
        return replace(verdict, status="ok", worst=wrong[0], margin=certain(right[0], wrong[0]))


def _score(text: str) -> float:
    outcomes = list(calculations(text))
    return float(all(outcomes)) if outcomes else math.nan


def calculations(text: str) -> Iterator[bool]:
    """Yield for each calculation in a text whether it is right: exactly, or, after a division or with decimals, as
    rounded to the digits that are written."""
    text = text.translate(_SIGNS)
    for match in _CALCULATION.finditer(text):
        if _CUT.search(text, max(0, match.start() - 9), match.start()):
            continue
        expression, result = match[1], match[2].translate(_MARKS)
        try:
            value = _value(ast.parse(expression.translate(_MARKS), mode="eval").body)
        except SyntaxError:  # a bracket that opens or closes elsewhere
            continue
        except ZeroDivisionError:
            yield False
            continue
        decimals = len(result.partition(".")[2])
        rounded = decimals or "/" in expression
        slack = Fraction(1, 2 * 10**decimals) if rounded else Fraction(0)
        yield abs(value - Fraction(result)) <= slack


def _value(node: ast.expr) -> Fraction:
    """Return the value of an expression of numbers, exactly."""
    if isinstance(node, ast.BinOp):
        value: Fraction = _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
        return value
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand)
    assert isinstance(node, ast.Constant)
    return Fraction(str(node.value))
