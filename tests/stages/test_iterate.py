"""The whole circle on the shipped M_0, small: every stage's files, and a run that is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepagent.demo.run import run_demo


@pytest.mark.slow
def test_two_rounds_leave_every_file_and_no_reference_in_the_loop(demo_run: Path, small_demo: list[str]) -> None:
    run = demo_run
    summary = json.loads((run / "summary.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["M_0", "M_1", "M_2", "M_3"]
    for model in summary["models"]:
        assert 0 <= model["greedy_accuracy"] <= 1
        assert {
            "search_accuracy",
            "judge_accuracy",
            "judge_consistency",
            "steps_per_solution",
        } <= model.keys()
    assert summary["models"][2]["preferences"] > 0
    assert (run / "summary.png").stat().st_size > 5000
    assert (run / "report.html").stat().st_size > 100_000
    assert (run / "training.jsonl").stat().st_size > 0
    for index in (1, 2):
        for name in (
            "problems.jsonl",
            "trees.jsonl",
            "preferences.jsonl",
            "search.json",
            "optimize.json",
            "training.jsonl",
        ):
            assert (run / f"round_{index}" / name).stat().st_size > 0
        for name in ("problems.jsonl", "trees.jsonl"):
            lines = (run / f"round_{index}" / name).read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            assert len(rows) == 12
            assert all(row.get("problem", row)["answer"] is None for row in rows)
    ids = [
        {json.loads(line)["id"] for line in (run / f"round_{i}" / "problems.jsonl").read_text().splitlines()}
        for i in (1, 2)
    ]
    assert not ids[0] & ids[1], "rounds draw fresh problems"

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    rerun = run_demo(run, small_demo)
    assert rerun["models"] == summary["models"]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before, "nothing ran twice"


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(initialized_demo: Path, small_demo: list[str]) -> None:
    run = initialized_demo
    overrides = [part for override in small_demo for part in ("--set", override)]
    command = [sys.executable, "-m", "stepagent", "demo", "--runs", str(run.parent), *overrides]
    before = (run / "M_1" / "model.safetensors").stat().st_mtime_ns
    finished_lines: dict[str, list[str]] = {}
    finished = None
    for wait in (1.0, 5.0, 7.0, 6.0, None):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "120"})
        if wait is None:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            finished = json.loads((run / "summary.json").read_text())
            break
        started = time.monotonic()
        while not list(run.glob("round_1/problems.jsonl")) and time.monotonic() - started < 120:
            time.sleep(0.1)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for name, lines in finished_lines.items():
            assert (run / name).read_text().splitlines()[: len(lines)] == lines, "finished trees are lost"
        for trees in run.glob("round_*/trees.jsonl"):
            whole = [line for line in trees.read_text().splitlines(keepends=True) if line.endswith("\n")]
            finished_lines[str(trees.relative_to(run))] = [line.rstrip("\n") for line in whole]
    assert finished is not None
    assert (run / "M_1" / "model.safetensors").stat().st_mtime_ns == before, "a run that was moved makes no M_1 again"
    assert [model["name"] for model in finished["models"]] == ["M_0", "M_1", "M_2", "M_3"]
    for index in (1, 2):
        ids = [
            json.loads(line)["problem"]["id"]
            for line in (run / f"round_{index}" / "trees.jsonl").read_text().splitlines()
        ]
        assert len(ids) == len(set(ids)) == 12
