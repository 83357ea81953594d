"""The places at which a whole solution falls into steps, as its text shows them. Nothing is changed but white space and
step marks.

numbered    lines that open with "Step n:" or "n." or "n)", counting from 1
paragraphs  blank lines
lines       one line a step
sentences   neighbouring sentences, joined up to a number of words; a short end joins the step before it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

Rule = Literal["numbered", "paragraphs", "lines", "sentences"]

_STEP_MARK = r"[ \t]*(?:#{1,6}[ \t]*)?(?:\*\*)?Step[ \t]+(\d+)[ \t]*(?:[:.]|[-–—](?=[ \t]))(?:\*\*)?[ \t]*"
_ITEM_MARK = r"[ \t]*(?:\*\*)?\(?(\d+)[.)](?:\*\*)?(?=[ \t])[ \t]*"
_KINDS = [re.compile(f"^{mark}", re.MULTILINE | re.IGNORECASE) for mark in (_STEP_MARK, _ITEM_MARK)]
_MARKS = re.compile(f"^(?:{_STEP_MARK}|{_ITEM_MARK})+", re.MULTILINE | re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b[A-Za-z]\.)(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z\\$(\[])")
WORDS = (8, 40)


def cut(solution: str, words: tuple[int, int] = WORDS) -> tuple[list[str], Rule] | None:
    """Return the steps of a solution, without marks and blanks around them, and the rule that found them; None where
    the text shows fewer than two. `words`: the least and the most of a step made of sentences (one sentence may have
    more)."""
    for rule, find in _RULES.items():
        steps = find(solution)
        if len(steps) > 1 and all(map(_whole, steps)):
            return steps, rule
    steps = _sentences(solution, *words)
    return (steps, "sentences") if len(steps) > 1 and all(map(_whole, steps)) else None


def _whole(step: str) -> bool:
    """Whether a piece says something, and no display formula, environment or code was cut through."""
    pairs = step.count("\\begin{") == step.count("\\end{") and step.count("\\[") == step.count("\\]")
    closed = step.count("$$") % 2 == 0 and step.count("```") % 2 == 0
    return pairs and closed and any(character.isalnum() for character in step)


def joins_to(steps: Sequence[str], solution: str) -> bool:
    """Whether the steps are the solution, white space and the marks of steps aside: a rule may change nothing."""
    return _bare(_MARKS.sub("", "\n".join(steps))) == _bare(_MARKS.sub("", solution))


def joins_exactly(steps: Sequence[str], solution: str) -> bool:
    """Whether the steps are the solution, white space aside: a model may not even number them."""
    return _bare("\n".join(steps)) == _bare(solution)


def _bare(text: str) -> str:
    return re.sub(r"\s", "", text)


def _numbered(solution: str) -> list[str]:
    """Text before the first mark belongs to the first step."""
    for kind in _KINDS:
        marks = list(kind.finditer(solution))
        if len(marks) > 1 and [int(mark[1]) for mark in marks] == list(range(1, len(marks) + 1)):
            starts = [0, *(mark.start() for mark in marks[1:]), len(solution)]
            return _stripped([kind.sub("", solution[a:b], count=1) for a, b in pairwise(starts)])
    return []


def _paragraphs(solution: str) -> list[str]:
    return _stripped(re.split(r"\n[ \t]*\n", solution))


def _lines(solution: str) -> list[str]:
    return _stripped(solution.splitlines())


def _sentences(solution: str, fewest: int, limit: int) -> list[str]:
    steps: list[str] = []
    for sentence in _stripped(_SENTENCE.split(solution)):
        if steps and len(steps[-1].split()) + len(sentence.split()) <= limit:
            steps[-1] = f"{steps[-1]} {sentence}"
        else:
            steps.append(sentence)
    if len(steps) > 1 and len(steps[-1].split()) < fewest:
        last = steps.pop()
        steps[-1] = f"{steps[-1]} {last}"
    return steps


def _stripped(pieces: Sequence[str]) -> list[str]:
    return [piece.strip() for piece in pieces if piece.strip()]


_RULES: dict[Rule, Callable[[str], list[str]]] = {
    "numbered": _numbered,
    "paragraphs": _paragraphs,
    "lines": _lines,
}
