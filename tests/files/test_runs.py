"""A run's folder: stages that run once, again, or go on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import DataError
from stepagent.files.runs import RunFolder


def test_a_stage_runs_once_again_when_something_changed_and_goes_on_when_it_was_cut_off(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path / "run")
    source, result = tmp_path / "in", tmp_path / "out"
    source.write_text("1")
    calls = []

    def work() -> None:
        calls.append(result.read_text() if result.exists() else "")
        result.write_text("half")
        if len(calls) == 2:
            raise KeyboardInterrupt
        result.write_text("whole")

    def stage(settings: object) -> bool:
        return run.stage("s", inputs={"in": source}, outputs={"out": result}, identity=settings, work=work)

    assert stage({"a": 1, "b": 2})
    assert not stage({"b": 2, "a": 1})
    with pytest.raises(KeyboardInterrupt):
        stage({"a": 2})
    assert stage({"a": 2}), "a stage that was cut off runs again"
    assert calls == ["", "", "half"], "other settings start afresh, the same settings go on"
    source.write_text("2")
    assert stage({"a": 2})
    result.write_text("touched")
    assert stage({"a": 2})
    assert not stage({"a": 2})
    assert stage({"a": 3})
    assert (tmp_path / "out.stale").read_text() == "whole", "what other settings made is moved aside"


def test_a_folder_that_has_changed_since_it_was_made_is_made_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    model = tmp_path / "run" / "M_1"

    def work() -> None:
        if not model.exists():  # as a model that a killed run left whole is kept
            model.mkdir()
            (model / "weights").write_text("whole")

    def stage() -> bool:
        return run.stage("init", inputs={}, outputs={"model": model}, identity={}, work=work)

    assert stage()
    (model / "weights").write_text("who")
    assert stage()
    assert (model / "weights").read_text() == "whole"
    assert (tmp_path / "run" / "M_1.stale" / "weights").read_text() == "who"
    assert not stage()


def test_other_hub_models_are_other_inputs(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    calls: list[str] = []

    def stage(model: str) -> bool:
        return run.stage("s", inputs={"model": Path(model)}, outputs={}, identity={}, work=lambda: calls.append(model))

    assert stage("org/one")
    assert not stage("org/one")
    assert stage("org/two")


def test_the_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    entry = {"settings": "0", "inputs": {}, "outputs": {}, "seconds": 1.0}
    for manifest in ({"search": entry}, {"schema": "stepagent/run/9", "stages": {"search": entry}}):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match=r"manifest\.json: written by another version of stepagent"):
            RunFolder(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=r"manifest\.json: not a run's manifest"):
            RunFolder(tmp_path)


def test_a_failure_before_the_first_result_brings_the_earlier_one_back(tmp_path: Path) -> None:
    run, result = RunFolder(tmp_path / "run"), tmp_path / "run" / "out"

    def stage(settings: str, work: Callable[[], object]) -> bool:
        return run.stage("s", inputs={}, outputs={"out": result}, identity=settings, work=work)

    def refuse() -> None:
        raise DataError("no such model")

    def fail_late() -> None:
        result.write_text("half")
        raise DataError("no answer")

    with pytest.raises(DataError, match="no such model"):
        stage("a", refuse)
    assert not (tmp_path / "run").exists(), "nothing was made, nothing stays"
    stage("a", lambda: result.write_text("whole"))
    with pytest.raises(DataError, match="no such model"):
        stage("b", refuse)
    assert result.read_text() == "whole"
    assert not stage("a", refuse), "still done"
    with pytest.raises(DataError, match="no answer"):
        stage("b", fail_late)
    assert result.read_text() == "half", "kept for the next run to go on from"
    assert result.with_name("out.stale").read_text() == "whole"
    assert stage("b", lambda: result.write_text(result.read_text() + " more"))
    assert result.read_text() == "half more"


def test_a_folder_is_free_again_for_other_processes(tmp_path: Path) -> None:
    script = f"from pathlib import Path; from stepagent.files.lock import hold; hold(Path({str(tmp_path)!r}))"
    with RunFolder(tmp_path) as run:
        made = {"made": tmp_path / "made"}
        run.stage("one", inputs={}, outputs=made, identity=0, work=lambda: made["made"].write_text("made"))
        held = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "another stepagent works in" in held.stderr
    subprocess.run([sys.executable, "-c", script], check=True)
