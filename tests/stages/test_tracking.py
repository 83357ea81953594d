"""One tracker for a whole run: real tensorboard files, and trackers that fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate import tracking

from stepagent import ConfigError
from stepagent.config.settings import Config
from stepagent.files.jsonl import write_json, write_rows
from stepagent.stages.tracking import Tracker

Load = Callable[..., Config]
TEXT = "name: small\nmodel: m\nproblems: p.jsonl\ntracker: tensorboard\n"


def write_round(run: Path, index: int) -> None:
    """Write the files of a round."""
    (run / "evaluation" / f"M_{index}").mkdir(parents=True)
    (run / f"round_{index}").mkdir(parents=True)
    write_json(run / "evaluation" / f"M_{index}" / "metrics.json", {"name": "M", "greedy_accuracy": index / 4})
    write_json(run / f"round_{index}" / "search.json", {"problems": 4, "  preference pairs": 3 * index, "share": "5%"})
    write_rows(run / f"round_{index}" / "training.jsonl", [{"step": s, "loss": 1 / s} for s in (1, 2)])
    write_json(run / f"round_{index}" / "optimize.json", {"margin": 0.5, "warnings": ["it drifts"]})


def scalars(run: Path) -> dict[str, list[float]]:
    """Return the values of each scalar in tensorboard's files, in order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((run / "tracker").rglob("events.*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            values.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    return {tag: [value for _, value in sorted(rows)] for tag, rows in values.items()}


@pytest.mark.filterwarnings("ignore")
def test_the_figures_of_every_stage_are_sent_once(load: Load, tmp_path: Path) -> None:
    config, run = load(TEXT), tmp_path / "run"
    write_round(run, 1)
    with Tracker(config, run) as tracker:
        tracker.update()
        write_round(run, 2)
    with Tracker(config, run) as tracker:  # the same run, started again
        write_round(run, 3)
    values = scalars(run)
    assert values["evaluation/greedy_accuracy"] == [0.25, 0.5, 0.75]
    assert values["search/preference pairs"] == [3, 6, 9]
    assert values["training/loss"] == [1.0, 0.5] * 3
    assert values["optimize/margin"] == [0.5] * 3
    assert "search/share" not in values, "a text is no figure"


class Alerting:
    """A tracker with alerts, which fails from its n-th row on."""

    name = "tensorboard"
    requires_logging_directory = False
    alerts: ClassVar[list[str]] = []
    rows: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, run_name: str) -> None:
        self.tracker = self

    def log(self, values: dict[str, Any], step: int) -> None:
        if len(self.rows) == 2:
            raise ConnectionError("the tracker's server is away")
        self.rows.append(values)

    def alert(self, title: str, text: str) -> None:
        self.alerts.append(text)

    def finish(self) -> None:
        raise AssertionError("a tracker that has failed is left alone")


def test_a_tracker_that_fails_is_a_warning_once_and_the_run_goes_on(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Alerting)
    monkeypatch.setattr(Alerting, "rows", [])
    run = tmp_path / "run"
    write_round(run, 1)
    with Tracker(load(TEXT), run) as tracker:
        tracker.update()
        write_round(run, 2)
        tracker.update()
    assert capsys.readouterr().err.count("the run goes on without it") == 1
    files = json.loads((run / "tracked.json").read_text())["files"]
    assert files == ["evaluation/M_1/metrics.json", "round_1/search.json"]


def test_guards_are_alerts_where_the_tracker_has_them(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Alerting)
    monkeypatch.setattr(Alerting, "rows", [{}] * 3)
    monkeypatch.setattr(Alerting, "alerts", [])
    monkeypatch.setattr(Alerting, "finish", lambda self: None)
    write_round(tmp_path / "run", 1)
    with Tracker(load(TEXT), tmp_path / "run"):
        pass
    assert Alerting.alerts == ["round_1: it drifts"]


def test_a_tracker_that_is_not_installed_is_named(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tracker: 'mlflow' is not installed; pip install mlflow"):
        Tracker(load(TEXT, "tracker=mlflow"), tmp_path)
    with pytest.raises(ConfigError, match="tracker"):
        load(TEXT, "tracker=tensorbord")
