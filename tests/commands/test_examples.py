"""The examples run as their headers say: on a scripted model, and with a stub server as the hosted judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepagent.testing.stub_server import Stub, serve

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    """Run an example as a program of its own; returns its output."""
    paths = [str(EXAMPLES), str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENAI_API_KEY": "none"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_there_are_few_and_each_says_what_it_shows() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert 1 <= len(scripts) <= 8
    for script in scripts:
        header = script.read_text().split('"""')[1]
        assert f"python examples/{script.name}" in header


def test_an_own_judge(config: Path, tmp_path: Path) -> None:
    lines = run("own_judge", config, tmp_path / "found").splitlines()
    assert set(lines) == {"'bad Step 1: one\\nStep 2:' before 'good Step 1: one\\nStep 2:'"}


def test_an_own_grader(config: Path, tmp_path: Path) -> None:
    config.write_text(f"{config.read_text()}\nevaluate: {{problems: {tmp_path}/problems.jsonl, search_problems: 0}}\n")
    assert run("own_grader", config, tmp_path / "out") == "100% right, 0 without a mark\n"


def test_an_own_strategy(config: Path, tmp_path: Path) -> None:
    output = run("own_strategy", config, tmp_path / "found")
    assert output.count("good Step 1: one\nStep 2: so \\boxed{2}\n") == 6


def test_a_search_for_another_trainer(config: Path, tmp_path: Path) -> None:
    assert "trl.jsonl" in run("search_and_export", config, tmp_path / "found")
    rows = [json.loads(line) for line in (tmp_path / "found" / "trl.jsonl").read_text().splitlines()]
    assert rows
    assert all(set(row) == {"prompt", "chosen", "rejected"} for row in rows)


def test_a_search_is_judged_anew(config: Path, tmp_path: Path) -> None:
    run("search_and_export", config, tmp_path / "found")
    lines = run("rejudge", config, tmp_path / "found", tmp_path / "again").splitlines()
    assert all(" became " in line for line in lines)
    assert len((tmp_path / "again" / "trees.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("verdict", ["A is right. [[A]]"])
def test_a_hosted_judge_within_a_budget(config: Path, tmp_path: Path, verdict: str) -> None:
    with serve(Stub(lambda context, seed: verdict)) as url:
        assert run("hosted_judge_with_budget", config, tmp_path / "found", url, "m") == "0 pairs\n"
    assert (tmp_path / "found" / "responses.sqlite").is_file(), "what was paid for is kept"
