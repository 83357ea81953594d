"""Where a step ends: the field's three habits.

marker      the next step opens with "Step n:" (arXiv 2503.03746); the terminator is "\\nStep {n+1}:"
line        a step is a line
blank_line  a step is a paragraph, "\\n\\n" (arXiv 2408.03314 and most process reward models)
"""

from __future__ import annotations

import re
from typing import Literal

BoundaryKind = Literal["marker", "line", "blank_line"]


def terminator(kind: BoundaryKind, depth: int) -> str:
    """The text that ends the step at `depth` (from 1)."""
    return {"marker": f"\nStep {depth + 1}:", "line": "\n", "blank_line": "\n\n"}[kind]


def split(kind: BoundaryKind, text: str) -> list[str] | None:
    """The contents of a whole solution's steps, if its form is valid: none is empty, and marks count from 1
    without a gap; None if it is not."""
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


def content(kind: BoundaryKind, depth: int, text: str) -> str:
    """A step's text without its terminator, its "Step n:" and the blanks around it."""
    if not text.strip():
        return ""
    said = text.partition(terminator(kind, depth))[0].strip()
    return re.sub(rf"\AStep {depth}:\s*", "", said) if kind == "marker" else said
