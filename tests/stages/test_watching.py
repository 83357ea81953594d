"""Drift: a rule that reads no reference answer, and a run that stops or goes on from the last good model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from stepagent import Candidate, ModelError, Problem, Verdict, Vote
from stepagent.assembly.session import Session
from stepagent.config.settings import Config, WatchSettings
from stepagent.demo.run import run_demo
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.files.problems import ProblemFile
from stepagent.stages.watch import Watched, drift, watched
from stepagent.testing import step
from stepagent.tree import StepTree
from stepagent.types import ModelVersion

FIRST = Watched(ended=0.9, pairs_per_problem=2.0, steps_per_solution=8.0, tokens_per_step=60.0, positions_agree=0.9)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"positions_agree": 0.71}, None),
        ({"positions_agree": 0.69}, "judged pairs whose positions agree 90% -> 69% (may fall by 20%)"),
        ({"ended": 0.69}, "solutions that end 90% -> 69% (may fall by 20%)"),
        ({"ended": 1.0}, None),
        ({"pairs_per_problem": 0.21}, None),
        ({"pairs_per_problem": 0.19}, "pairs per problem 2.00 -> 0.19 (at least 10% are to stay)"),
        ({"steps_per_solution": 2.7}, None),
        ({"steps_per_solution": 2.6}, "steps per solution 8.0 -> 2.6 (may change by a factor of 3)"),
        ({"tokens_per_step": 181.0}, "tokens per step 60.0 -> 181.0 (may change by a factor of 3)"),
        ({"tokens_per_step": None, "positions_agree": None, "steps_per_solution": None}, None),
    ],
)
def test_the_rule(change: dict[str, float | None], sentence: str | None) -> None:
    changed = replace(FIRST, **change)  # type: ignore[arg-type]
    assert drift(FIRST, changed, WatchSettings()) == ([sentence] if sentence else [])


def test_what_is_counted() -> None:
    def tree(status: str, texts: list[str]) -> StepTree:
        step_tree = StepTree(Problem("p", "q"), status=status)  # type: ignore[arg-type]
        parent = None
        for text in texts:
            level = step_tree.add(parent, (Candidate(step(text)), Candidate(step(text + "?"))))
            votes = (Vote(0, 1, "first"), Vote(1, 0, "second" if text != "bb" else "first"))
            level.judged, level.chosen = level.nodes, level.nodes[0]
            level.verdict = Verdict("ok", (1.0, 0.0), 0, worst=1, margin=0.9, votes=votes)
            parent = level.nodes[0]
            step_tree.path.append(parent)
        return step_tree

    counts = watched([tree("ended", ["aaa", "bb", "c"]), tree("no_signal", ["bb"])])
    assert counts == Watched(0.5, 2.0, 3.0, tokens_per_step=2.0, positions_agree=0.5)
    assert watched([tree("ended", ["aaa"]), tree("failed", [])]).ended == 1.0
    assert watched([]) == Watched(0.0, 0.0, None, tokens_per_step=None, positions_agree=None)


def test_watched_problems_are_the_last_of_the_pool_and_carry_no_answer(tmp_path: Path) -> None:
    pool = [{"id": str(i), "question": f"q{i}", "answer": "1"} for i in range(50)]
    write_rows(tmp_path / "p.jsonl", pool)
    ProblemFile(tmp_path / "p.jsonl").draw(0, slice(-10, None), tmp_path / "w.jsonl")
    problems = read_rows(tmp_path / "w.jsonl", Problem)
    assert len(problems) == 10
    assert all(problem.answer is None for problem in problems)


class Service:
    """A run's server that keeps the indices of the models put on it. See Served."""

    def __init__(self) -> None:
        self.deployments: list[int | None] = []

    def connection(self, model: ModelVersion) -> Mapping[str, object]:
        self.deployments.append(model.index)
        return {}

    def rest(self) -> None: ...


@pytest.mark.parametrize(
    ("then", "drifting", "sources", "last_good", "deployed"),
    [
        ("roll_back", {2}, [1, 1, 3], "M_4", []),
        ("roll_back", {4}, [1, 2, 3], "M_3", [3]),
        ("stop", {3}, [1, 2], "M_2", [2]),
        ("warn", {3, 4}, [1, 2, 3], "M_2", []),
    ],
)
def test_which_model_a_round_goes_on_from_and_which_one_the_server_keeps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    then: str,
    drifting: set[int],
    sources: list[int],
    last_good: str,
    deployed: list[int],
) -> None:
    from stepagent.stages import iterate

    searches: list[int | None] = []
    trainings: list[int | None] = []
    service = Service()

    @contextmanager
    def serving(session: Session) -> Iterator[None]:
        session.served = service
        yield

    def search(session: Session, model: ModelVersion, problems: ProblemFile, *, out: Path, round_index: int) -> None:
        assert round_index == len(searches) + 1
        assert problems.path == out / "problems.jsonl"
        searches.append(model.index)
        write_rows(out / "preferences.jsonl", [])

    def optimize(session: Session, model: ModelVersion, preferences: Path, *, trained: ModelVersion) -> ModelVersion:
        trainings.append(model.index)
        write_rows(Path(trained.path) / "weights.jsonl", [{"trained": trained.name}])
        return trained

    monkeypatch.setattr(iterate, "serving", serving)
    monkeypatch.setattr(iterate, "check_model", lambda *_: None)
    monkeypatch.setattr(iterate, "search", search)
    monkeypatch.setattr(iterate, "optimize", optimize)
    monkeypatch.setattr(iterate, "watch", lambda _, model: ["ways"] if model.index in drifting else [])
    write_rows(tmp_path / "p.jsonl", [{"question": "1+1"}])
    settings = {"model": "m", "problems": str(tmp_path / "p.jsonl"), "rounds": 3, "backend": {"kind": "scripted"}}
    config = Config.model_validate({**settings, "watch": {"then": then}})
    run = tmp_path / "run"
    for _ in range(2):
        searches.clear()
        trainings.clear()
        with pytest.raises(ModelError, match="has drifted") if then == "stop" else nullcontext():
            iterate.iterate(config, run)
        assert searches == trainings == sources
        assert json.loads((run / "summary.json").read_text())["last_good"] == last_good
        by_rounds = list(range(2, len(sources) + 2))
        assert service.deployments == [*by_rounds, *deployed], "once, also if the finished run is started again"


@pytest.mark.slow
def test_a_wrecked_model_stops_the_run_and_roll_back_goes_on_from_the_last_good_one(
    initialized_demo: Path, small_demo: list[str]
) -> None:
    run, wild = initialized_demo, [*small_demo, "watch.problems=12", "evaluate=null", "optimize.learning_rate=0.05"]
    with pytest.raises(ModelError, match=r"M_2 has drifted .* the last good model is M_1"):
        run_demo(run, wild)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["last_good"] == "M_1"
    assert list(summary["drifted"]) == ["M_2"]
    assert not (run / "M_3").exists()

    summary = run_demo(run, [*wild, "watch.then=roll_back"])
    assert summary["last_good"] == "M_1"
    assert "M_2" in summary["drifted"]
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    models = [stages[f"round_{i}: search"]["inputs"]["model"] for i in (1, 2)]
    assert models[0] == models[1], "round 2 searched with M_1 again"
    ids = [{p.id for p in read_rows(run / f"round_{i}" / "problems.jsonl", Problem)} for i in (1, 2)]
    assert not ids[0] & ids[1]
