"""Does a solution reach the reference answer? Evaluation only; nothing in the loop calls this."""

from __future__ import annotations

import re

_BOXED = re.compile(r"\\boxed\{")
_VALUE = r"-?\d[\d,]*(?:\.\d+)?"
_STATED = re.compile(rf"[Aa]nswer\s*(?:is)?\s*[:=]?\s*({_VALUE})")
_NUMBER = re.compile(_VALUE)
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?:\D|\Z))")


def final_answer(solution: str) -> str | None:
    """The last boxed expression, else the last stated answer, else the last number of the last line."""
    boxes = list(_BOXED.finditer(solution))
    if boxes:
        start = boxes[-1].end()
        depth = 1
        for index in range(start, len(solution)):
            depth += {"{": 1, "}": -1}.get(solution[index], 0)
            if depth == 0:
                return solution[start:index].strip()
        return None  # a box that never closes is not an answer
    stated = _STATED.findall(solution)
    if stated:
        return str(stated[-1])
    lines = solution.strip().splitlines()
    numbers = _NUMBER.findall(lines[-1]) if lines else []
    return numbers[-1] if numbers else None


def is_correct(solution: str, reference: str) -> bool:
    """Whether the solution's final answer equals `reference`, as text, as number or, by math-verify,
    as mathematics."""
    answer = final_answer(solution)
    if answer is None:
        return False
    plain = [text.replace(" ", "").rstrip(".") for text in (answer, reference)]
    if all(re.fullmatch(_VALUE, text) for text in plain):
        plain = [_GROUPED.sub("", text) for text in plain]
    if plain[0] == plain[1]:
        return True
    try:
        return float(plain[0]) == float(plain[1])
    except ValueError:
        pass
    from math_verify import parse, verify  # heavy: loads sympy

    return bool(verify(parse(f"${reference}$"), parse(f"${answer}$")))
