"""`stepagent evaluate --compare`: strategies at equal cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stepagent.report.shares import wilson

CONFIG = """
model: none
problems: {folder}/problems.jsonl
backend: {{kind: scripted, rules: [
  {{pattern: "impartial judge[\\\\s\\\\S]*proposal_A>\\\\nso", say: ["[[A]]"]}},
  {{pattern: "impartial judge", say: ["[[B]]"]}},
  {{pattern: "", say: ["so \\\\boxed{{2}}", "or \\\\boxed{{3}}", "or \\\\boxed{{4}}"]}}]}}
search: {{width: 4}}
evaluate: {{problems: {{path: "{folder}/problems.jsonl", sample: 20}}}}
"""


def compare(folder: Path, names: str, *options: str) -> subprocess.CompletedProcess[str]:
    config = folder / "c.yaml"
    config.write_text(CONFIG.format(folder=folder))
    rows = [{"id": f"p{i}", "question": f"1+1 ({i})", "answer": "2"} for i in range(24)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "stepagent", "evaluate", str(config), "--out", str(folder / "out")]
    return subprocess.run([*command, "--compare", names, *options], capture_output=True, text=True, check=False)


def test_each_strategy_grows_to_the_budget_and_no_further(tmp_path: Path) -> None:
    names = "greedy,best_of_n,step,beam,dvts,best_first,mcts"
    result = compare(tmp_path, names, "--budget", "100")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    points = report["points"]
    assert {point["strategy"] for point in points} == set(names.split(","))
    assert all(point["problems"] == 20 for point in points)
    best = report["at_budget"]
    assert all(point["tokens"] <= 100 for point in best.values())
    sampled = [point for point in points if point["strategy"] == "best_of_n"]
    assert [point["size"] for point in sampled[:4]] == [1, 2, 4, 8]
    assert best["best_of_n"]["size"] >= 6
    assert best["best_of_n"]["tokens"] >= 70
    assert best["greedy"]["calls"] == 1
    judged = best["step"]
    assert judged["accuracy"] > best["best_of_n"]["accuracy"], "the judge knows, the majority guesses"
    low, high = wilson(judged["solved"], 20)
    assert (judged["low"], judged["high"]) == (low, high)
    assert (tmp_path / "out" / "compare.png").stat().st_size > 5000
    assert result.stdout.rstrip().endswith(f"report: {tmp_path / 'out' / 'report.html'}")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Strategies at equal cost" in page
    assert all(f"<b>{100 * point['accuracy']:.1f}</b>" in page for point in points)
    assert "* step" in result.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("trees.jsonl")}
    assert len(before) == len(points)
    rerun = compare(tmp_path, names, "--budget", "100")
    assert rerun.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is searched twice"


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("step", [], "--budget: say how many sampled tokens"),
        ("stepp", ["--budget", "9"], "search.kind: unknown kind 'stepp'; did you mean 'step'?"),
        ("step,step", ["--budget", "9"], "--compare: a strategy is named twice"),
    ],
)
def test_bad_comparisons_are_one_sentence(tmp_path: Path, names: str, options: list[str], message: str) -> None:
    result = compare(tmp_path, names, *options)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
