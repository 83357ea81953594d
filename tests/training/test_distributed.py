"""The same curve on one process, on two, and over an interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from stepagent import StepPreference
from stepagent.files.jsonl import write_rows
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import ChatTokenizer

Preference = Callable[..., StepPreference]

SCRIPT = Path(__file__).parent / "train_once.py"
SETTINGS = {
    "learning_rate": 5e-3,
    "beta": 0.5,
    "epochs": 2,
    "batch_size": 5,
    "save_steps": 2,
    "token_budget": 40,
}


@pytest.fixture
def data(preference: Preference, random_model: Path, tmp_path: Path) -> Path:
    tokenizer = ChatTokenizer(random_model)
    rows = [
        preference(tokenizer, f"{i}+{j}=2\n", f"{i}-{j}=34\n", problem_id=str(i)) for i in range(6) for j in range(3)
    ]
    write_rows(tmp_path / "p.jsonl", rows)
    return tmp_path / "p.jsonl"


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}


def run(
    model: Path,
    data: Path,
    name: str,
    *extra: str,
    launcher: tuple[str, ...] = (),
    code: int = 0,
    message: str = "",
    settings: Mapping[str, object] = SETTINGS,
    **environment: str,
) -> list[float]:
    out, curve = data.parent / name, data.parent / f"{name}.json"
    command = [
        sys.executable,
        *launcher,
        str(SCRIPT),
        *map(str, (model, data, out, curve)),
        json.dumps({**SETTINGS, **settings}),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **environment,
    }
    result = subprocess.run(
        [*command, *extra], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert (result.returncode == code) if code == 0 else (result.returncode != 0), result.stderr[-3000:]
    assert message in result.stderr
    losses: list[float] = json.loads(curve.read_text())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"lora": None}], ids=["LoRA", "full"])
@pytest.mark.parametrize("sharding", [{}, FSDP2], ids=["DDP", "FSDP2"])
def test_two_processes_give_the_curve_of_one(
    random_model: Path, data: Path, sharding: dict[str, str], settings: dict[str, object]
) -> None:
    alone = run(random_model, data, "one", settings=settings)
    together = run(random_model, data, "two", settings=settings, launcher=TWO, **sharding)
    assert len(alone) == 8
    assert together == pytest.approx(alone, abs=1e-4)
    assert alone[-1] < 0.8 * alone[0]
    weights = [
        load_model(data.parent / name, torch.float32, torch.device("cpu")).state_dict() for name in ("one", "two")
    ]
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-3)


@pytest.mark.slow
def test_an_interrupted_run_continues_from_its_last_whole_checkpoint(random_model: Path, data: Path) -> None:
    whole = run(random_model, data, "whole")
    run(random_model, data, "cut", "5", code=9)
    work = data.parent / "cut.work"
    assert {path.name for path in work.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    torn = work / "checkpoint-6"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    resumed = run(random_model, data, "cut")
    assert resumed == pytest.approx(whole[4:], abs=1e-5)
    assert not work.exists()


@pytest.mark.slow
def test_checkpoints_of_other_work_are_not_continued(random_model: Path, data: Path) -> None:
    run(random_model, data, "cut", "5", code=9)
    rows = data.read_text().splitlines(keepends=True)
    data.write_text("".join(rows[:10]))
    assert len(run(random_model, data, "cut")) == 4, "all steps of the new work"


@pytest.mark.slow
def test_a_full_disk_says_so_and_keeps_the_last_whole_checkpoint(random_model: Path, data: Path) -> None:
    whole = run(random_model, data, "whole")
    run(random_model, data, "cut", "0", "60000", code=9, message="cannot be written (")
    work = data.parent / "cut.work"
    assert {path.parent.name for path in work.glob("checkpoint-*/trainer_state.json")} == {"checkpoint-2"}
    resumed = run(random_model, data, "cut")
    assert resumed == pytest.approx(whole[2:], abs=1e-5)
