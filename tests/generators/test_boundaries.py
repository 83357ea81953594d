"""Where a step ends, and solutions in the form of steps."""

from __future__ import annotations

import pytest

from stepagent.generators.boundaries import BoundaryKind, content, split, terminator


def test_boundaries_by_depth() -> None:
    assert terminator("marker", 3) == "\nStep 4:"
    assert content("marker", 1, "Step 1: x = 1\nStep 2:") == "x = 1"
    assert content("marker", 2, " x = 1\nStep 3:") == "x = 1"
    assert content("line", 1, "  \n") == ""


@pytest.mark.parametrize(
    ("kind", "text", "steps"),
    [
        ("marker", "Step 1: a\nb\nStep 2: c", ["a\nb", "c"]),
        ("marker", "so Step 1: a", None),
        ("marker", "Step 1: a\nStep 3: b", None),
        ("marker", "Step 1: a\nStep 2: ", None),
        ("marker", "a", None),
        ("line", "a\nb\n", ["a", "b"]),
        ("line", "a\n\nb", None),
        ("blank_line", "a\nb\n\nc", ["a\nb", "c"]),
        ("line", "", None),
    ],
)
def test_the_form_of_a_solution(kind: BoundaryKind, text: str, steps: list[str] | None) -> None:
    assert split(kind, text) == steps
