"""A judge that recomputes what a step calculates."""

from __future__ import annotations

import ast
import math
import operator
import random
import re
from collections.abc import Iterator, Sequence
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

    So it compares steps that calculate the same and differ in what comes out: the sum that is right against the
    product that is wrong would teach to add. Of the right steps the one that was sampled most often is best, of the
    wrong ones worst; of several groups of such steps the largest one is taken. A step in it scores 1 if all its
    calculations are right, else 0; other steps get nan. Without such steps there is no signal, and the search goes on
    with the step without a slip that was sampled most often.
    """

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        results = [list(calculations(step.content)) for step in candidates]
        right = [all(outcome for _, outcome in calculated) for calculated in results]
        rng = random.Random(seed)
        order = sorted(rng.sample(range(len(candidates)), len(candidates)), key=lambda i: -candidates[i].count)
        groups: dict[tuple[str, ...], list[int]] = {}
        for i in order:
            if results[i]:
                groups.setdefault(tuple(expression for expression, _ in results[i]), []).append(i)
        contrasts = [group for group in groups.values() if len({right[i] for i in group}) > 1]
        if not contrasts:
            best = next((i for i in order if right[i]), next(iter(order), None))
            nothing = (math.nan,) * len(candidates)
            return Verdict("no_signal", nothing, best=best, usage=Usage(), values=nothing)
        group = max(contrasts, key=lambda group: sum(candidates[i].count for i in group))
        scores = tuple(float(right[i]) if i in group else math.nan for i in range(len(candidates)))
        best, worst = (next(i for i in group if right[i] is outcome) for outcome in (True, False))
        return Verdict("ok", scores, best, worst, certain(best, worst), usage=Usage(), values=scores)


def calculations(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each calculation in a text, without blanks, and whether its result is right: exactly, or, after a division
    or with decimals, as rounded to the digits that are written."""
    text = text.translate(_SIGNS)
    for match in _CALCULATION.finditer(text):
        if _CUT.search(text, max(0, match.start() - 9), match.start()):
            continue
        expression, result = "".join(match[1].translate(_MARKS).split()), match[2].translate(_MARKS)
        try:
            value = _value(ast.parse(expression, mode="eval").body)
        except SyntaxError:  # a bracket that opens or closes elsewhere
            continue
        except ZeroDivisionError:
            yield expression, False
            continue
        decimals = len(result.partition(".")[2])
        rounded = decimals or "/" in expression
        slack = Fraction(1, 2 * 10**decimals) if rounded else Fraction(0)
        yield expression, abs(value - Fraction(result)) <= slack


def _value(node: ast.expr) -> Fraction:
    """Return the value of an expression of numbers, exactly."""
    if isinstance(node, ast.BinOp):
        value: Fraction = _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
        return value
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand)
    assert isinstance(node, ast.Constant)
    return Fraction(str(node.value))
