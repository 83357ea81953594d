"""A second judge confirms the pairs before they are trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stepagent import ConfigError, DataError, Problem, Step, Verdict
from stepagent.assembly.session import Session
from stepagent.config.settings import Config
from stepagent.files.jsonl import read_rows
from stepagent.stages.own_judgements import own_judgements
from stepagent.stages.search import search
from stepagent.stages.train import replay_of
from stepagent.stages.verify import VerifiedPair, verify
from stepagent.types import ModelVersion, StepPreference, Usage

CONFIG = """
model: none
problems: {folder}/problems.jsonl
backend: {{kind: scripted, rules: [
  {{pattern: "impartial judge[\\\\s\\\\S]*proposal_A>\\\\ngood", say: ["[[A]]"]}},
  {{pattern: "impartial judge", say: ["[[B]]"]}},
  {{pattern: "Step 2:$", say: [" so \\\\boxed{{2}}"]}},
  {{pattern: "", say: ["good Step 1: one\\nStep 2: x", "bad Step 1: one\\nStep 2: x"]}}]}}
search: {{width: 6}}
"""
MODEL = ModelVersion(1, "none")


class Second:
    """Judge that confirms the pairs of the problems in `confirms`, refutes those in `refutes`, and has no opinion of
    others. It sees a pair alone, the chosen step first."""

    calls = 0

    def __init__(self, confirms: list[str], refutes: list[str]) -> None:
        self.confirms, self.refutes = confirms, refutes

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        Second.calls += 1
        assert problem.answer is None
        assert [step.content[:4] for step in candidates] == ["good", "bad "]
        best = 0 if problem.id in self.confirms else 1
        if problem.id not in (*self.confirms, *self.refutes):
            return Verdict("no_signal", (0.0, 0.0), usage=Usage(1, 5, 7))
        return Verdict("ok", (0.0, 0.0), best, 1 - best, 0.9, usage=Usage(1, 5, 7))


@pytest.fixture
def searched(load: Callable[..., Config], tmp_path: Path) -> Callable[..., Path]:
    """Maker of a searched folder, verified as the arguments say."""
    rows = [{"id": f"p{i}", "question": f"1+1 ({i})", "answer": "2"} for i in range(6)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**parameters: Any) -> Path:
        second = json.dumps({"kind": "test_verify:Second", "params": parameters})
        config = load(CONFIG.format(folder=tmp_path), f"verify={second}")
        with Session(config, tmp_path / "run") as session:
            from stepagent.files.problems import ProblemFile

            file = ProblemFile.of(config.problems, session.folder)
            search(session, MODEL, file, out=session.folder)
            return verify(session, MODEL, session.folder / "preferences.jsonl")

    return make


def test_only_confirmed_pairs_are_left_and_all_are_counted(searched: Callable[..., Path], tmp_path: Path) -> None:
    confirmed = searched(confirms=["p1", "p4"], refutes=["p0"])
    every = read_rows(tmp_path / "run" / "preferences.jsonl", StepPreference)
    left = [row for row in every if row.problem_id in ("p1", "p4")]
    assert 0 < len(left) < len(every)
    assert read_rows(confirmed, StepPreference) == left, "as they were, in their order"
    figures = json.loads((tmp_path / "run" / "verify.json").read_text())
    refuted = sum(row.problem_id == "p0" for row in every)
    assert figures == {
        "pairs": len(every),
        "confirmed": len(left),
        "refuted": refuted,
        "undecided": len(every) - len(left) - refuted,
        "sampled tokens": 7 * len(every),
    }
    verdicts = read_rows(tmp_path / "run" / "judged_pairs.jsonl", VerifiedPair)
    assert len(verdicts) == len(every)


def test_nothing_is_asked_twice(searched: Callable[..., Path], tmp_path: Path) -> None:
    Second.calls = 0
    searched(confirms=["p1"], refutes=[])
    asked = Second.calls
    searched(confirms=["p1"], refutes=[])
    assert Second.calls == asked > 1
    lines = (tmp_path / "run" / "judged_pairs.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run" / "judged_pairs.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:9])  # torn by a kill
    searched(confirms=["p1"], refutes=[])
    assert Second.calls == asked + 1


def test_a_verifier_that_confirms_nothing_says_so_with_counts(searched: Callable[..., Path]) -> None:
    with pytest.raises(
        DataError, match=r"none of the \d+ pairs of .*trees\.jsonl was confirmed \(\d+ refuted, \d+ und"
    ):
        searched(confirms=[], refutes=["p0", "p1"])


def test_confirmed_votes_become_rows_of_the_judge(
    searched: Callable[..., Path], load: Callable[..., Config], tmp_path: Path
) -> None:
    """Both orders of a pair, each after the judge's own prompt, in the judge's words."""
    confirmed = searched(confirms=["p1", "p4"], refutes=["p0"])
    second = json.dumps({"kind": "test_verify:Second", "params": {"confirms": [], "refutes": []}})
    config = load(CONFIG.format(folder=tmp_path), f"verify={second}", "replay.judged=1")
    rows = own_judgements(config, confirmed)
    assert len(rows) == 2 * len(read_rows(confirmed, StepPreference))
    for row in rows:
        text = row.messages[-1].content
        assert ("1+1 (1)" in text) or ("1+1 (4)" in text)
        assert row.response == ("[[A]]" if text.index("good") < text.index("bad ") else "[[B]]")
    assert sorted(row.response for row in rows) == ["[[A]]"] * (len(rows) // 2) + ["[[B]]"] * (len(rows) // 2)
    replay = replay_of(config, "round 1", confirmed)
    assert replay
    assert replay.draw(1) == rows[:1], "as many as there are pairs to learn"
    assert own_judgements(config, confirmed) == rows


def test_the_hardest_pairs_are_taught_first(
    searched: Callable[..., Path], load: Callable[..., Config], tmp_path: Path
) -> None:
    confirmed = searched(confirms=["p1", "p4"], refutes=[])
    trees = confirmed.with_name("trees.jsonl")
    lines = [json.loads(line) for line in trees.read_text().splitlines()]
    for tree in lines:
        for level in tree["levels"]:
            if tree["problem"]["id"] == "p4" and level["verdict"]:
                level["verdict"]["margin"] = 0.55
    trees.write_text("".join(json.dumps(tree) + "\n" for tree in lines))
    rows = own_judgements(load(CONFIG.format(folder=tmp_path)), confirmed)
    hard = ["1+1 (4)" in row.messages[-1].content for row in rows]
    assert hard == sorted(hard, reverse=True)
    assert 0 < sum(hard) < len(hard)


def test_judgements_to_learn_need_a_second_judge_and_the_trees(
    searched: Callable[..., Path], load: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="name that judge in the section verify"):
        load(CONFIG.format(folder=tmp_path), "replay.judged=1")
    confirmed = searched(confirms=["p1"], refutes=[])
    trees = confirmed.with_name("trees.jsonl")
    votes = trees.read_text()
    trees.write_text(votes.replace('"reply":"[[A]]"', '"reply":""'))
    with pytest.raises(DataError, match=r"none of its \d+ pairs has a written vote in both orders"):
        own_judgements(load(CONFIG.format(folder=tmp_path)), confirmed)
    trees.unlink()
    with pytest.raises(DataError, match=r"not found; replay\.judged reads there how the pairs"):
        own_judgements(load(CONFIG.format(folder=tmp_path)), confirmed)
