"""The process that compares formulas: from a plain script, from threads, after a fork, killed when it is too slow."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stepagent.answers import mathematics

SCRIPT = """
from stepagent.answers import same_answer
from stepagent.graders.marking import MATH
from stepagent.types import Problem
print(same_answer(r"\\\\frac{x+1}{2}", r"\\\\frac{x}{2} + \\\\frac{1}{2}"))
print(MATH.grade(Problem("p", "q", "x^2 + x"), r"So \\\\boxed{x(x+1)}."))
"""


@pytest.mark.parametrize("way", ["file", "standard input", "-c"])
def test_a_plain_script_needs_no_guard(tmp_path: Path, way: str) -> None:
    script = SCRIPT.replace("\\\\", "\\")
    (tmp_path / "s.py").write_text(script)
    arguments = {"file": ["s.py"], "standard input": [], "-c": ["-c", script]}[way]
    text = script if way == "standard input" else None
    result = subprocess.run(
        [sys.executable, *arguments], input=text, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\nTrue\n", "")


def test_many_threads_may_ask() -> None:
    equal: list[bool] = []
    pairs = [(f"x + {i}", f"{i} + x" if i % 2 else "x") for i in range(1, 21)]
    threads = [
        threading.Thread(target=lambda pair=pair: equal.append(mathematics.same_mathematics(*pair))) for pair in pairs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal.count(True) == 10


def test_what_is_too_slow_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mathematics.same_mathematics("x + 1", "1 + x")
    monkeypatch.setattr(mathematics, "_SECONDS", 0.5)
    assert not mathematics.same_mathematics("9^{9^{9^{9}}}", "9^{9^{9^{8}}}")
    monkeypatch.undo()
    assert mathematics.same_mathematics("x + 1", "1 + x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_asks_a_process_of_its_own() -> None:
    script = (
        "import os\nfrom stepagent.answers.mathematics import same_mathematics as same\n"
        "assert same('x', 'x + 0')\nchild = os.fork()\nassert same('x + 1', '1 + x')\n"
        "if child:\n    assert os.waitpid(child, 0)[1] == 0\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
