"""The end of a step, by the field's three conventions.

marker      the next step opens with "Step n:" (arXiv 2503.03746); the terminator is "\\nStep {n+1}:"
line        a step is a line
blank_line  a step is a paragraph, "\\n\\n" (arXiv 2408.03314 and most process reward models)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

BoundaryKind = Literal["marker", "line", "blank_line"]


def boundary_kind(name: object) -> BoundaryKind | None:
    """Return the kind that a generator's setting names; None if it names none of them."""
    return next((kind for kind in get_args(BoundaryKind) if kind == name), None)


def terminator(kind: BoundaryKind, depth: int) -> str:
    """Return the text that ends the step at `depth` (from 1)."""
    return {"marker": f"\nStep {depth + 1}:", "line": "\n", "blank_line": "\n\n"}[kind]


def split(kind: BoundaryKind, text: str) -> list[str] | None:
    """Return the contents of a whole solution's steps; None if its form is not valid.

    A valid form has no empty step, and its marks count from 1 without a gap.
    """
    if kind == "marker":
        marks = list(re.finditer(r"(?m)^Step (\d+):", text))
        numbers = [int(mark[1]) for mark in marks]
        if not marks or text[: marks[0].start()].strip() or numbers != list(range(1, len(marks) + 1)):
            return None
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        steps = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    else:
        steps = [piece.strip() for piece in text.strip().split(terminator(kind, 1))]
    return steps if all(steps) else None


def join(kind: BoundaryKind, steps: Sequence[str]) -> tuple[str, ...] | None:
    """Return the texts of a solution's steps as a generator of this kind writes them, each but the last with the
    terminator that ends it: the inverse of `split`. None if a step holds a mark of its own, which would end it."""
    if kind == "marker":
        if any(re.search(r"(?m)^Step \d+:", step) for step in steps):
            return None
        texts = [f"Step {number}: {step}" for number, step in enumerate(steps, start=1)]
        end = "\n"  # the next step's mark completes the terminator
    elif kind == "line":
        texts, end = [re.sub(r"\s*\n\s*", " ", step) for step in steps], "\n"
    else:
        texts, end = [re.sub(r"\n\s*\n", "\n", step) for step in steps], "\n\n"
    return (*(text + end for text in texts[:-1]), texts[-1])


def content(kind: BoundaryKind, depth: int, text: str) -> str:
    """Return a step's text without its terminator, its "Step n:" and the blanks around it."""
    if not text.strip():
        return ""
    body = text.partition(terminator(kind, depth))[0].strip()
    return re.sub(rf"\AStep {depth}:\s*", "", body) if kind == "marker" else body
