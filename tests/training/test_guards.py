"""Each guard speaks once, with a remedy, and only when it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from stepagent import ModelError, StepPreference
from stepagent.config.settings import GuardSettings, OptimizeSettings
from stepagent.files.jsonl import write_rows
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.dpo import optimize_model
from stepagent.training.guards import Guards
from stepagent.training.packing import Target
from stepagent.training.trainer import Monitor

Preference = Callable[..., StepPreference]


class QuietMonitor(Monitor, Protocol):
    """The fixture `quiet`."""

    warnings: list[str]


def metrics(fall: float = 0.0, accuracy: float = 0.6) -> dict[str, float]:
    return {"chosen_logp": -10 - fall, "chosen_reference": -10.0, "accuracy": accuracy}


def test_falling_chosen_log_probs() -> None:
    guards = Guards(GuardSettings(chosen_fall=5), steps=100)
    assert guards.check_step(20, metrics(fall=4)) == []
    (warning,) = guards.check_step(21, metrics(fall=9))
    assert "fell by 6.5 nats" in warning
    assert "raise optimize.nll_alpha" in warning
    assert guards.check_step(22, metrics(fall=9)) == [], "said once"


def test_accuracy_that_saturates_at_once_but_not_later() -> None:
    guards = Guards(GuardSettings(), steps=100)
    assert guards.check_step(50, metrics(accuracy=1.0)) == []
    assert "ordered rightly after 4 steps" in guards.check_step(4, metrics(accuracy=1.0))[0]


def test_the_longer_step_wins_far_too_often() -> None:
    def pair(chosen: int, rejected: int) -> tuple[Target, Target]:
        return Target((1,) * (3 + chosen), 3), Target((2,) * (3 + rejected), 3)

    guards = Guards(GuardSettings(), steps=10)
    assert guards.check_lengths([pair(5, 2)] * 15 + [pair(2, 5)] * 5 + [pair(3, 3)] * 9) == []
    (warning,) = guards.check_lengths([pair(5, 2)] * 19 + [pair(2, 5)])
    assert "wins 95% of 20 pairs" in warning
    assert guards.check_lengths([pair(5, 2)] * 19) == [], "too few to say"


def test_a_run_reports_its_warnings_or_stops_as_asked(
    preference: Preference, quiet: QuietMonitor, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    rows = [preference(tokenizer, f"{i}+{i}+{i}=2\n", f"{i}\n") for i in range(10)] * 2
    write_rows(tmp_path / "p.jsonl", rows)
    settings = OptimizeSettings(learning_rate=1e-4)
    optimize_model(random_model, tmp_path / "p.jsonl", tmp_path / "out", settings=settings, seed=0, monitor=quiet)
    assert any("the longer step wins 100%" in warning for warning in quiet.warnings)
    stopping = settings.model_copy(update={"guards": GuardSettings(stop=True)})
    with pytest.raises(ModelError, match=r"stopped, as guards\.stop asks: the longer step"):
        optimize_model(random_model, tmp_path / "p.jsonl", tmp_path / "out2", settings=stopping, seed=0, monitor=quiet)
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "ipo"},
        {"loss": "kto"},
        {"loss": "likelihood"},
        {"margin_smoothing": True},
        {"length_normalized": True},
        {"nll_alpha": 1.0},
        {"lora": {"rank": 4, "variant": "rslora"}},
        {"lora": {"rank": 4, "variant": "dora"}},
        {"lora": None},
        {"lora": {"rank": 4, "dropout": 0.1}},
        {"gradient_checkpointing": True},
    ],
)
def test_every_variant_trains_and_merges(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    tokenizer = ChatTokenizer(random_model)
    rows = [preference(tokenizer, f"{i}+1=2\n", f"{i}-1=33\n") for i in range(8)]
    write_rows(tmp_path / "p.jsonl", rows)
    settings = OptimizeSettings(**{"learning_rate": 3e-3, "beta": 0.3, "epochs": 8, "batch_size": 4, **changes})
    report = optimize_model(
        random_model, tmp_path / "p.jsonl", tmp_path / "out", settings=settings, seed=0, monitor=quiet
    )
    assert report["accuracy"] == 1.0
    assert report["parity"] < 1e-3
