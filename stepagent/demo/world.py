"""The arithmetic world: sums of two-digit numbers, worked out line by line.

A question is a chain such as `61-22+24`; a solution does one operation per line and ends with the answer:

    61-22=39
    39+24=63
    =63

People here write such lines *quickly*, all digits at once, and often slip by ten, forgetting a carry or
making one up, with a frequency that depends on the two unit digits (`slip_rate`). A person who *marks* a line
works the sum out digit by digit first, and marks rightly. A model trained on both answers badly and judges
well: the self-rewarding loop can close that gap. All numbers, wrong ones too, have two digits.

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
    """Sum or difference of two operands, such as 61-22."""

    left_operand: int
    sign: str
    right_operand: int

    @property
    def value(self) -> int:
        """The right value."""
        return self.left_operand + self.right_operand * (1 if self.sign == "+" else -1)

    @property
    def carries(self) -> bool:
        """Whether the unit digits carry (+) or borrow (-)."""
        left_unit, right_unit = self.left_operand % 10, self.right_operand % 10
        return left_unit + right_unit >= 10 if self.sign == "+" else left_unit < right_unit

    @property
    def slipped(self) -> int:
        """The value with the carry or borrow forgotten, or one made up where there is none."""
        return self.value - 10 if (self.sign == "+") == self.carries else self.value + 10

    def __str__(self) -> str:
        return f"{self.left_operand}{self.sign}{self.right_operand}"


@cache
def slip_rate(sign: str, left_unit: int, right_unit: int) -> float:
    """Return the frequency in (0, 1) of slips at these unit digits.

    It is fixed for a pair of digits. Its log-odds are spread evenly around SLIP_SHIFT, so that people slip
    mostly at some digits, seldom at others, and at none always.
    """
    spread = random.Random(f"slip {sign} {left_unit} {right_unit}").uniform(-SLIP_SPREAD, SLIP_SPREAD)
    return 1 / (1 + math.exp(-(spread + SLIP_SHIFT)))


def in_range(value: int) -> bool:
    """Return whether a value has two digits."""
    return LOW <= value <= HIGH


def make_question(rng: random.Random, operations: int = OPERATIONS) -> str:
    """Return a chain whose true and slipped intermediate values all have two digits."""
    value = rng.randint(LOW, HIGH)
    question = str(value)
    for _ in range(operations):
        while True:
            operation = Operation(value, rng.choice("+-"), rng.randint(10, 49))
            if in_range(operation.value) and in_range(operation.slipped):
                break
        value = operation.value
        question += f"{operation.sign}{operation.right_operand}"
    return question


def correct_answer(question: str) -> int:
    """Return the true value of a chain."""
    return int(question[:2]) + sum(int(question[i : i + 3]) for i in range(2, len(question), 3))


def next_operation(question: str, prefix: list[str]) -> Operation | None:
    """Return the operation that the next line has to compute after the lines in `prefix`; None if only the
    answer is missing, or the last line has no value.

    A wrong earlier line is taken as it stands: each step is judged on its own.
    """
    depth = len(prefix)
    operations = re.findall(r"([+-])(\d\d)", question)
    value = int(question[:2]) if not prefix else result(prefix[-1])
    if value is None or depth >= len(operations):
        return None
    sign, right = operations[depth]
    return Operation(value, sign, int(right))


def result(line: str) -> int | None:
    """Return the value that a line arrives at; None if it is no line of this world."""
    match = _EQUATION.fullmatch(line.strip()) or _ANSWER.fullmatch(line.strip())
    return int(match[match.lastindex or 0]) if match else None


def correct_line(question: str, prefix: list[str]) -> str:
    """Return the right next line."""
    operation = next_operation(question, prefix)
    if operation:
        return f"{operation}={operation.value}"
    return f"={result(prefix[-1]) if prefix else question[:2]}"


def line_is_right(question: str, prefix: Sequence[str], line: str) -> bool:
    """Return whether a step arrives at the right value after the lines before it as they stand."""
    return result(line) == result(correct_line(question, [text.strip() for text in prefix]))


def quick_solution(rng: random.Random, question: str) -> list[str] | None:
    """Return a solution as people write it, slips included; None if a value has not two digits."""
    lines: list[str] = []
    while operation := next_operation(question, lines):
        slips = rng.random() < slip_rate(operation.sign, operation.left_operand % 10, operation.right_operand % 10)
        value = operation.slipped if slips else operation.value
        if not in_range(value):
            return None
        lines.append(f"{operation}={value}")
    return [*lines, f"={result(lines[-1])}"]


def worked(operation: Operation) -> str:
    """Return the sum worked out digit by digit: units, then tens with the carry or borrow, then the value."""
    tens, units = divmod(operation.left_operand, 10)
    right_tens, right_units = divmod(operation.right_operand, 10)
    carry = int(operation.carries)
    if operation.sign == "+":
        first = f"{units}+{right_units}={units + right_units:02d}"
        second = f"{tens}+{right_tens}+{carry}={operation.value // 10}"
    else:
        first = f"{units + 10 * carry}-{right_units}={operation.value % 10}"
        second = f"{tens}-{right_tens}-{carry}={operation.value // 10}"
    return f"{operation}:{first},{second}>{operation.value}"


def compare(label: str, value: int | None, expected: int) -> str:
    """Return a candidate's digits beside the expected ones, then y or n; `label` is A or B."""
    digits = f"{value:02d}" if value is not None else "00"
    pairs = (
        f"{digit}{'=' if digit == expected_digit else '!'}{expected_digit}"
        for digit, expected_digit in zip(digits, f"{expected:02d}", strict=True)
    )
    return f"{label} {','.join(pairs)}{'y' if value == expected else 'n'}"


def judgement(question: str, prefix: list[str], first: str, *, second: str) -> str:
    """Return a careful marker's text on two lines: the sum worked out, both lines compared, the verdict."""
    operation = next_operation(question, prefix)
    expected = result(correct_line(question, prefix))
    assert expected is not None
    opening = worked(operation) if operation else f"={expected}>{expected}"
    values = result(first), result(second)
    marks = [compare(label, value, expected) for label, value in zip("AB", values, strict=True)]
    verdict = {(True, False): FIRST, (False, True): SECOND}.get((values[0] == expected, values[1] == expected), TIE)
    return "\n".join([opening, *marks]) + verdict
