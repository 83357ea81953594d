"""The arithmetic world: sums of two-digit numbers, worked out line by line.

A question is a chain such as `61-22+24`; a solution does one operation per line and ends with the answer:

    61-22=39
    39+24=63
    =63

People here write such lines *quickly*, all digits at once, and often slip by ten, forgetting a carry or
making one up: how often depends on the two unit digits (`slip_rate`). Whoever *marks* a line works the
sum out digit by digit first, and marks rightly. A model trained on both answers badly and judges well:
that gap is what the self-rewarding circle can close. All numbers, wrong ones too, have two digits.

Nothing here is a model; `slip_rate` and the correct marks exist only in the data and in the controls.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

LOW, HIGH = 10, 99
OPERATIONS = 3
SLIP_SPREAD = 2.5
SLIP_SHIFT = -0.2
FIRST, SECOND, TIE = "[[A]]", "[[B]]", "[[C]]"

_EQUATION = re.compile(r"(\d\d)([+-])(\d\d)=(\d\d)")
_ANSWER = re.compile(r"=(\d\d)")


@dataclass(frozen=True, slots=True)
class Operation:
    """`left` sign `right`, such as 61-22."""

    left: int
    sign: str
    right: int

    @property
    def value(self) -> int:
        return self.left + self.right if self.sign == "+" else self.left - self.right

    @property
    def carries(self) -> bool:
        """Whether the unit digits carry (+) or borrow (-)."""
        left, right = self.left % 10, self.right % 10
        return left + right >= 10 if self.sign == "+" else left < right

    @property
    def slipped(self) -> int:
        """The value with the carry or borrow forgotten, or one made up where there is none."""
        return self.value - 10 if (self.sign == "+") == self.carries else self.value + 10

    def __str__(self) -> str:
        return f"{self.left}{self.sign}{self.right}"


@cache
def slip_rate(sign: str, left: int, right: int) -> float:
    """How often people slip at these unit digits: fixed, log-odds spread evenly around SLIP_SHIFT, so
    that at some digits they mostly slip, at others seldom, and never always."""
    spread = random.Random(f"slip {sign} {left} {right}").uniform(-SLIP_SPREAD, SLIP_SPREAD)
    return 1 / (1 + math.exp(-(spread + SLIP_SHIFT)))


def in_range(value: int) -> bool:
    return LOW <= value <= HIGH


def make_question(rng: random.Random, operations: int = OPERATIONS) -> str:
    """A chain whose true and slipped intermediate values all have two digits."""
    value = rng.randint(LOW, HIGH)
    question = str(value)
    for _ in range(operations):
        while True:
            operation = Operation(value, rng.choice("+-"), rng.randint(10, 49))
            if in_range(operation.value) and in_range(operation.slipped):
                break
        value = operation.value
        question += f"{operation.sign}{operation.right}"
    return question


def correct_answer(question: str) -> int:
    """The true value of a chain."""
    return int(question[:2]) + sum(int(question[i : i + 3]) for i in range(2, len(question), 3))


def next_operation(question: str, prefix: list[str]) -> Operation | None:
    """What the next line has to compute, given the lines so far as they stand; None means the answer.

    A wrong earlier line is taken as it is: each step is judged on its own.
    """
    done = len(prefix)
    operations = re.findall(r"([+-])(\d\d)", question)
    value = int(question[:2]) if not prefix else result(prefix[-1])
    if value is None or done >= len(operations):
        return None
    sign, right = operations[done]
    return Operation(value, sign, int(right))


def result(line: str) -> int | None:
    """The number a line arrives at; None if it is no line of this world."""
    match = _EQUATION.fullmatch(line.strip()) or _ANSWER.fullmatch(line.strip())
    return int(match[match.lastindex or 0]) if match else None


def correct_line(question: str, prefix: list[str]) -> str:
    """The right next line."""
    operation = next_operation(question, prefix)
    if operation:
        return f"{operation}={operation.value}"
    return f"={result(prefix[-1]) if prefix else question[:2]}"


def line_is_right(question: str, prefix: Sequence[str], line: str) -> bool:
    """Whether a step arrives at the right value after the lines before it as they stand."""
    return result(line) == result(correct_line(question, [text.strip() for text in prefix]))


def quick_solution(rng: random.Random, question: str) -> list[str] | None:
    """A solution as people write it, slips included; None if a value left the two-digit range."""
    lines: list[str] = []
    while operation := next_operation(question, lines):
        slips = rng.random() < slip_rate(operation.sign, operation.left % 10, operation.right % 10)
        value = operation.slipped if slips else operation.value
        if not in_range(value):
            return None
        lines.append(f"{operation}={value}")
    return [*lines, f"={result(lines[-1])}"]


def worked(operation: Operation) -> str:
    """The sum, digit by digit: units, then tens with the carry or borrow, then the value."""
    left, right = operation.left, operation.right
    units, carry = left % 10, int(operation.carries)
    if operation.sign == "+":
        first = f"{units}+{right % 10}={units + right % 10:02d}"
        second = f"{left // 10}+{right // 10}+{carry}={operation.value // 10}"
    else:
        first = f"{units + 10 * carry}-{right % 10}={operation.value % 10}"
        second = f"{left // 10}-{right // 10}-{carry}={operation.value // 10}"
    return f"{operation}:{first},{second}>{operation.value}"


def compare(seat: str, value: int | None, expected: int) -> str:
    """A candidate's digits beside the expected ones, then y or n."""
    digits = f"{value:02d}" if value is not None else "00"
    pairs = (
        f"{digit}{'=' if digit == wanted else '!'}{wanted}"
        for digit, wanted in zip(digits, f"{expected:02d}", strict=True)
    )
    return f"{seat} {','.join(pairs)}{'y' if value == expected else 'n'}"


def judgement(question: str, prefix: list[str], first: str, second: str) -> str:
    """What a careful marker writes about two candidate lines: the sum worked out, both compared, verdict."""
    operation = next_operation(question, prefix)
    right = correct_line(question, prefix)
    expected = result(right)
    assert expected is not None
    opening = worked(operation) if operation else f"={expected}>{expected}"
    values = result(first), result(second)
    marks = [compare(seat, value, expected) for seat, value in zip("AB", values, strict=True)]
    verdict = {(True, False): FIRST, (False, True): SECOND}.get(
        (values[0] == expected, values[1] == expected), TIE
    )
    return "\n".join([opening, *marks]) + verdict
