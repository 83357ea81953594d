"""An own grader: one method, in a process of its own. Whatever goes wrong in it is a record, and the run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import stepagent
from stepagent.graders import guarded
from stepagent.graders.guarded import Guarded
from stepagent.graders.marking import Mark, mark, vote
from stepagent.types import Problem

MODULE = """
import os, time
from pathlib import Path


class Own:
    def __init__(self, near: int = 0) -> None:
        self.near = near

    def grade(self, problem, solution):
        print("printing is no reply")
        word = solution.split()[-1]
        if word == "raise":
            raise ZeroDivisionError("no such luck")
        if word == "hang":
            time.sleep(600)
        if word == "die":
            os._exit(3)
        if word == "grow":
            bytearray(64 << 30)
        if word == "write":
            Path(__file__).with_name("written").write_text("x")
        if word == "score":
            return 0.3
        if word == "note":
            import tempfile
            return bool(tempfile.NamedTemporaryFile("w").write("x"))
        return abs(int(word) - int(problem.answer)) <= self.near


class Broken:
    def __init__(self) -> None:
        raise ValueError("no key")

    def grade(self, problem, solution):
        return True


class Reader(Own):
    def answer(self, solution):
        return str(len(solution.split()[-1]))

    def same(self, first, second):
        return first == second
"""
PROBLEM = Problem("p", "q", "10")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the module own_grading_module, which can be imported."""
    (tmp_path / "own_grading_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_every_failure_has_its_words_and_the_next_solution_its_mark(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grader = Guarded("own_grading_module:Own", {"near": 1})
    assert mark(grader, PROBLEM, "so 11") == Mark(True)
    assert mark(grader, PROBLEM, "so 12") == Mark(False)
    for word, words in {
        "raise": "raised ZeroDivisionError: no such luck",
        "die": "died with a solution",
        "grow": "raised MemoryError",
        "write": "raised PermissionError: it may not write to",
        "score": "returned 0.3, which is neither True nor False",
    }.items():
        outcome = mark(grader, PROBLEM, word)
        assert outcome.right is None, word
        assert words in outcome.error
    assert mark(grader, PROBLEM, "note") == Mark(True), "its temporary folder is its own"
    with monkeypatch.context() as patch:
        patch.setattr(guarded, "SECONDS", 0.5)
        assert "took more than 0.5 seconds" in mark(grader, PROBLEM, "hang").error
    assert mark(grader, PROBLEM, "so 10") == Mark(True)
    assert not (module / "written").exists()


@pytest.mark.usefixtures("module")
def test_a_grader_that_cannot_be_made_says_why() -> None:
    outcome = mark(Guarded("own_grading_module:Broken", {}), PROBLEM, "10")
    assert outcome.right is None
    assert "cannot be made" in outcome.error
    assert "ValueError: no key" in outcome.error


@pytest.mark.usefixtures("module")
def test_votes_are_its_own_or_those_of_math() -> None:
    texts = ["\\boxed{10}", "\\boxed{1}", "\\boxed{10.0}"]
    assert vote(Guarded("own_grading_module:Own", {}), texts).agreeing == (0, 2)
    assert vote(Guarded("own_grading_module:Reader", {}), ["a 12", "b 34", "c 5"]).agreeing == (0, 1)


CONFIG = """
model: none
problems: {folder}/problems.jsonl
backend: {{kind: scripted, rules: [
  {{pattern: "case raise", say: ["Step 1: so raise"]}}, {{pattern: "", say: ["Step 1: so 11"]}}]}}
search: {{kind: greedy}}
evaluate: {{problems: {folder}/problems.jsonl, search_problems: 2}}
{grader}
"""


def test_an_evaluation_counts_failures_apart_and_is_made_again_for_another_grader(module: Path) -> None:
    rows = [{"id": name, "question": f"case {name}", "answer": "10"} for name in ("raise", "plain", "other")]
    (module / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def evaluated(grader: str) -> stepagent.api.Evaluation:  # type: ignore[name-defined]
        path = module / "c.yaml"
        path.write_text(CONFIG.format(folder=module, grader=f"grader: {grader}" if grader else ""))
        return stepagent.evaluate(path, module / "out")

    plain = evaluated("")
    assert (plain.greedy_accuracy, plain.solved, plain.failed_grades) == (0.0, (False, False, False), 0)
    near = evaluated("{kind: 'own_grading_module:Own', near: 1}")
    assert (near.greedy_accuracy, near.search_accuracy, near.solved) == (1.0, 1.0, (None, True, True))
    assert near.failed_grades == 2
    assert "problem 'raise': the grader own_grading_module:Own raised ZeroDivisionError" in near.grade_error
    assert evaluated("{kind: 'own_grading_module:Own', near: 0}").greedy_accuracy == 0.0
    assert evaluated("{kind: number, absolute: 1}").solved == (False, True, True)
