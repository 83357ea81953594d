"""Text of a model or a server cannot act on the terminal that shows it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stepagent.console import visible
from stepagent.report.show import render_tree
from stepagent.testing import step
from stepagent.tree import StepTree
from stepagent.types import Candidate, Problem, Verdict, Vote

TITLE = "\x1b]0;owned\x07"
CLEAR = "\x1b[2J"
HOSTILE = [TITLE, CLEAR, "\x9b31m", "a\rb", "a\x08b", "abc\u202ecba", "\u2066x\u2069", "\ud800", "\U000e0041", "\u200b"]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_acts(text: str) -> None:
    shown = visible(text)
    assert shown != text
    assert all(char.isprintable() for char in shown)
    shown.encode()


def test_text_stays() -> None:
    for text in ("x² + ½ ≤ \\frac{1}{2}", "line\n\tindented", "שלום", "می‌خواهم", "👩‍👩‍👧", "naïve"):
        assert visible(text) == text
    assert visible("a\r\nb") == "a\nb"
    assert visible("\x1b[0m\u202e") == "␛[0m⟨U+202E⟩"


def test_a_printed_tree_shows_escapes() -> None:
    attack = TITLE + CLEAR + "\u202e\x9b31m"
    tree = StepTree(Problem(attack, attack), status="failed", error=attack)
    level = tree.add(None, (Candidate(step(attack + "1")), Candidate(step(attack + "2"))))
    level.judged = level.nodes
    votes = (Vote(0, 1, "first", attack),)
    level.verdict = Verdict("ok", (1.0, 0.0), 0, worst=1, margin=0.9, votes=votes)
    out = io.StringIO()
    Console(file=out, width=200).print(render_tree(tree, replies=True))
    printed = out.getvalue()
    assert not set(printed) & set("\x1b\x07\u202e\x9b")
    assert printed.count("␛]0;owned␇") == 6  # id, question, two candidates, a reply, the error
