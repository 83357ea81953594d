"""The final answer of a solution, and whether two answers are the same. For evaluation, votes and rollouts; no rule
of the loop reads a reference."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import re
import threading
from collections.abc import Sequence
from concurrent.futures import TimeoutError as TooSlow
from contextlib import suppress
from functools import cache
from typing import Any

from pebble import ProcessExpired, ProcessPool

_BOXED = re.compile(r"\\boxed\{")
_VALUE = r"-?\d[\d,]*(?:\.\d+)?"
_STATED = re.compile(r"(?:####|[Aa]nswer\s*(?:is|:|=))[:\s*]*([^\n]+)")
_NUMBER = re.compile(_VALUE)
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?:\D|\Z))")
_CHOICE = re.compile(r"\(?\*{0,2}([A-J])\*{0,2}\)?[.:]?(?:\s.*)?")
_SECONDS = 5.0
_MEMORY = 4 << 30  # bytes that a comparison may take
_ONE = threading.Lock()


def stated_answer(solution: str) -> str | None:
    """Return the answer that a worked solution marks: the last boxed expression, else the text behind "####"."""
    if _BOXED.search(solution):
        return final_answer(solution)
    _, mark, answer = solution.rpartition("####")
    return (answer.strip() or None) if mark else None


def final_answer(solution: str) -> str | None:
    """Return the last boxed expression, else what the last "answer is", "Answer:" or "####" states (its number or
    choice where it opens with one), else the last number of the last line, else the choice that the last line names."""
    boxes = list(_BOXED.finditer(solution))
    if boxes:
        start = boxes[-1].end()
        depth = 1
        for index in range(start, len(solution)):
            depth += {"{": 1, "}": -1}.get(solution[index], 0)
            if depth == 0:
                return solution[start:index].strip()
        return None  # a box that never closes is not an answer
    if stated := _STATED.findall(solution):
        statement = stated[-1].strip().strip("$").rstrip(". ")
        number = re.match(rf"({_VALUE})(?=[\s.,;$]|\Z)", statement)
        choice = _CHOICE.fullmatch(statement)
        return number[1] if number else choice[1] if choice else statement or None
    lines = solution.strip().splitlines()
    if not lines:
        return None
    numbers = _NUMBER.findall(lines[-1])
    if numbers:
        return str(numbers[-1])
    only = re.fullmatch(r"\(?([A-J])\)?\.?", lines[-1].strip())
    return only[1] if only else None


def is_correct(solution: str, reference: str) -> bool:
    """Whether the solution's final answer is the `reference`."""
    answer = final_answer(solution)
    return answer is not None and same_answer(answer, reference)


def same_answer(answer: str, reference: str) -> bool:
    """Whether two answers are the same as text, as choice, as number or, by math-verify, as mathematics. Answers that
    math-verify cannot compare within five seconds are not."""
    plain = [_plain(text) for text in (answer, reference)]
    if plain[0] == plain[1]:
        return True
    try:
        return float(plain[0]) == float(plain[1])
    except ValueError:
        pass
    if not all(re.search(r"\d|\\[a-zA-Z]|^[a-z]$", text) for text in plain):
        return False  # words, not mathematics
    return _same_mathematics(answer, reference)


def majority(solutions: Sequence[str]) -> list[int]:
    """Return the solutions (indices, in order) that reach the answer of most; empty if none states an answer."""
    groups: dict[str, list[int]] = {}
    for index, solution in enumerate(solutions):
        if answer := final_answer(solution):
            equal = next((group for group in groups if same_answer(answer, group)), answer)
            groups.setdefault(equal, []).append(index)
    return max(groups.values(), key=len, default=[])


def _plain(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}", r"\1", text.strip().strip("$"))
    text = re.sub(r"\s", "", text).rstrip(".").removesuffix("\\%").removesuffix("%")
    if choice := re.fullmatch(r"\(([A-J])\)", text):
        return choice[1].casefold()
    if re.fullmatch(_VALUE, text):
        text = _GROUPED.sub("", text)
    return text.casefold()


def _same_mathematics(answer: str, reference: str) -> bool:
    try:
        return bool(_worker().schedule(_verify, (answer, reference), timeout=_SECONDS).result())
    except (TooSlow, ProcessExpired, MemoryError):
        return False


def _worker() -> Any:
    """One process, which is killed and replaced when it is too slow: sympy can loop, and take all memory."""
    with _ONE:
        return _start()


@cache
def _start() -> Any:
    pool = ProcessPool(1, context=multiprocessing.get_context("spawn"), initializer=_prepare)
    atexit.register(pool.stop)
    return pool


def _prepare() -> None:
    """Load sympy before the clock of the first comparison runs, then bound the memory where that can be
    done."""
    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we switch its alarms off
    with suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = _MEMORY if hard == resource.RLIM_INFINITY else min(hard, _MEMORY)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _verify(answer: str, reference: str) -> bool:
    from math_verify import parse, verify

    # the process is killed when it is too slow: no alarms of its own
    gold, candidate = (parse(f"${text}$", parsing_timeout=None) for text in (reference, answer))
    return bool(verify(gold, candidate, timeout_seconds=None))
