"""An own grader: one method, in a process of its own. Whatever goes wrong in it is a record, and the run goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import stepagent
from stepagent.assembly.components import Binder
from stepagent.config.settings import Config
from stepagent.config.yaml_text import read_yaml
from stepagent.graders import guarded
from stepagent.graders.guarded import Guarded
from stepagent.graders.marking import Mark, mark, vote
from stepagent.judges.reference import ReferenceJudge
from stepagent.judges.rollouts import RolloutJudge
from stepagent.testing import ScriptedBackend, step
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


class Fails:
    """A grader that fails on the texts that hold `word`, and finds the others right that hold "good"."""

    def __init__(self, word: str) -> None:
        self.word = word

    def grade(self, problem: Problem, solution: str) -> bool:
        assert problem.answer == "2", "the judge hands the reference on"
        if self.word in solution:
            raise LookupError("no entry")
        return "good" in solution


async def test_rollouts_without_a_mark_do_not_count() -> None:
    """Of four rollouts, two of the bad step have no mark: (1 + 0) / (2 + 2) instead of (1 + 0) / (2 + 4)."""
    backend = ScriptedBackend(reply=lambda context, seed: "so odd" if "bad" in context and seed % 2 else "so")
    judge = RolloutJudge(backend, {"q": "2"}, grader=Fails("odd"), rollouts=4, target="reference")
    candidates = [step("bad "), step("good ")]
    verdict = await judge.judge(Problem("p", "q"), [], candidates, 0)
    assert (verdict.status, verdict.best, verdict.worst) == ("ok", 1, 0)
    assert verdict.scores == pytest.approx((1 / 4, 5 / 6))
    assert verdict.error == "the grader raised LookupError: no entry"
    unmarked = RolloutJudge(backend, {"q": "2"}, grader=Fails("bad"), rollouts=4, target="reference")
    verdict = await unmarked.judge(Problem("p", "q"), [], candidates, 0)
    assert (verdict.status, math.isnan(verdict.scores[0])) == ("no_signal", True), "and the search goes on"


async def test_a_reference_judge_leaves_out_what_has_no_mark() -> None:
    ends = [step(text, ends=True) for text in ("good", "bad", "odd")]
    verdict = await ReferenceJudge({"q": "2"}, Fails("odd")).judge(Problem("p", "q"), [], ends, 0)
    assert (verdict.status, verdict.best, verdict.worst) == ("ok", 0, 1)
    assert math.isnan(verdict.scores[2])
    assert "LookupError" in verdict.error


def test_a_judges_own_grader_and_the_runs_count_in_its_results() -> None:
    def identity(judge: str, grader: str) -> object:
        data = read_yaml(f"model: m\nproblems: p.jsonl\njudge: {judge}\ngrader: {grader}")
        return Binder(Config.model_validate(data)).search().identity()

    asks, own = "{kind: rollouts}", "{kind: rollouts, grader: {kind: choice}}"
    assert identity(asks, "{}") == identity(asks, "{kind: math}") != identity(asks, "{kind: text}")
    assert identity(own, "{kind: math}") == identity(own, "{kind: text}") != identity(asks, "{kind: math}")
    assert identity("{kind: random}", "{kind: math}") == identity("{kind: random}", "{kind: text}")
