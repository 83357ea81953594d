"""The built-in graders: which solutions are right, which votes agree, and what a program under test may not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepagent.errors import GraderError
from stepagent.graders.choice import ChoiceGrader
from stepagent.graders.json import JsonGrader
from stepagent.graders.marking import MATH, Mark, mark, vote
from stepagent.graders.number import NumberGrader
from stepagent.graders.python_tests import PythonTestsGrader
from stepagent.graders.text import TextGrader
from stepagent.interfaces import AnswerReader, Grader
from stepagent.types import Problem

CHOICE, TEXT, NUMBER, JSON = ChoiceGrader(), TextGrader(), NumberGrader(relative=0.01, absolute=0.5), JsonGrader()
SQUARE = "def square(x):\n    return x * x\n"


@pytest.mark.parametrize(
    ("grader", "reference", "solution", "right"),
    [
        (CHOICE, "B", "Step 1: so \\boxed{B}", True),
        (CHOICE, "(b)", "The answer is (B) 12.", True),
        (CHOICE, "B", "The answer is (C) 12.", False),
        (CHOICE, "A, C", "Answer: (C) and (A)", True),
        (CHOICE, "B", "The answer is 12.", False),
        (TEXT, "New York", "The answer is new  york.", True),
        (TEXT, "x y\nz w", "Step 1: a\nAnswer:\nx y\nz w", True),
        (TEXT, "x y\nz w", "<answer>x y\nz w</answer>", True),
        (TEXT, "10", "\\boxed{10.0}", False),
        (TEXT, "yes", "<think>\\boxed{yes}</think> \\boxed{no}", False),
        (NUMBER, "1000", "\\boxed{1010}", True),
        (NUMBER, "1000", "\\boxed{1011}", False),
        (NUMBER, "1.2", "It is $1.70 each", True),
        (NUMBER, "3", "The answer is three.", False),
        (JSON, '{"a": 1, "b": [true]}', 'So\n```json\n{"b": [true], "a": 1.0}\n```', True),
        (JSON, '{"a": 1}', 'First {"a": 2}, then {"a": 1}.', True),
        (JSON, "[1]", "The list is [true]", False),
        (JSON, "[1, 2]", "\\boxed{[2, 1]}", False),
        (JSON, "[1]", "no value", False),
    ],
)
def test_right_and_wrong(grader: Grader, reference: str, solution: str, right: bool) -> None:
    assert mark(grader, Problem("p", "q", reference), solution) == Mark(right)


@pytest.mark.parametrize(("grader", "words"), [(CHOICE, "names no letter"), (NUMBER, "no number"), (JSON, "no JSON")])
def test_a_reference_of_another_kind_is_no_wrong_mark(grader: Grader, words: str) -> None:
    outcome = mark(grader, Problem("p", "q", "hello there"), "\\boxed{1}" if grader is not CHOICE else "\\boxed{B}")
    assert outcome.right is None
    assert words in outcome.error


def test_votes_are_counted_as_the_grader_reads() -> None:
    assert all(isinstance(grader, AnswerReader) for grader in (MATH, CHOICE, TEXT, NUMBER, JSON, PythonTestsGrader()))
    texts = ["\\boxed{\\frac12}", "\\boxed{0.5}", "\\boxed{0.50}", "\\boxed{7}"]
    assert vote(MATH, texts).agreeing == (0, 1, 2)
    assert vote(TEXT, texts).agreeing == (0,)
    programs = [f"```python\n{code}\n```" for code in ("x = 1", "x = 2 ", "x = 2")]
    assert vote(PythonTestsGrader(), programs).agreeing == (1, 2)


def outcome_of(code: str, tests: str = "assert square(3) == 9") -> Mark:
    grader = PythonTestsGrader(seconds=1, memory_mb=256)
    return mark(grader, Problem("p", "q", tests), f"Step 1: write it.\n```python\n{code}\n```")


@pytest.mark.parametrize(
    ("code", "right"),
    [
        (SQUARE, True),
        ("def square(x): return x + x", False),
        ("def square(x): return", False),
        ("import sys; sys.exit(0)", False),
        ("import os; os._exit(0)", False),
        (SQUARE + "while True: pass", False),
        (SQUARE + "bytearray(1 << 30)", False),
        (SQUARE + "import socket; socket.socket()", False),
        (SQUARE + "import subprocess, sys; subprocess.run([sys.executable, '-c', ''])", False),
        (SQUARE + "import os; os.fork()", False),
        (SQUARE + "import os; assert 'PATH' not in os.environ and not any('TOKEN' in key for key in os.environ)", True),
        (SQUARE + "import tempfile\nwith tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').write('1')", True),
        (SQUARE + "open('large', 'wb').write(bytes(1 << 26))", False),
    ],
)
def test_a_program_runs_within_its_limits(code: str, right: bool) -> None:
    assert outcome_of(code) == Mark(right)


def test_a_program_changes_no_file_outside(tmp_path: Path) -> None:
    kept = tmp_path / "file"
    kept.write_text("1")
    for line in (
        f"open({str(kept)!r}, 'w')",
        f"open({str(tmp_path / 'new')!r}, 'x')",
        f"os.remove({str(kept)!r})",
        f"os.rename({str(kept)!r}, 'mine')",
        f"os.symlink({str(tmp_path)!r}, 'link'); open('link/new', 'w')",
        f"os.link({str(kept)!r}, 'mine')",
    ):
        assert outcome_of(f"{SQUARE}import os\n{line}") == Mark(False), line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert kept.read_text() == "1"


def test_tests_that_are_no_python_are_a_failure() -> None:
    outcome = outcome_of(SQUARE, "assert square(3) ==")
    assert outcome.right is None
    assert "the tests of the problem are no Python: SyntaxError" in outcome.error
    with pytest.raises(GraderError, match="no 'answer'"):
        PythonTestsGrader().grade(Problem("p", "q"), "```\nx\n```")
