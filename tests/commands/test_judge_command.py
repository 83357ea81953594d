"""`stepagent judge` on the trees of a search and on labelled data, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Command = Callable[..., CompletedProcess[str]]

OTHER = """
model: none
problems: {folder}/problems.jsonl
backend: {{kind: scripted, rules: [
  {{pattern: "impartial judge[\\\\s\\\\S]*proposal_A>\\\\nbad", say: ["[[A]]"]}},
  {{pattern: "impartial judge", say: ["[[B]]"]}}]}}
"""


@pytest.fixture
def trees(stepagent: Command, config: Path, tmp_path: Path) -> Path:
    assert stepagent("search", config, "--out", tmp_path / "found").returncode == 0
    return tmp_path / "found" / "trees.jsonl"


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_finished_search_is_judged_again_without_sampling(
    stepagent: Command,
    config: Path,
    trees: Path,
    tmp_path: Path,
) -> None:
    rejudged = stepagent("judge", config, "--trees", trees, "--out", tmp_path / "same")
    assert rejudged.returncode == 0, rejudged.stderr
    assert "both positions agree" in rejudged.stdout
    before, after = rows(trees.parent / "preferences.jsonl"), rows(tmp_path / "same" / "preferences.jsonl")
    assert [row["chosen"] for row in after] == [row["chosen"] for row in before]
    opposite = tmp_path / "other.yaml"
    opposite.write_text(OTHER.format(folder=tmp_path))
    result = stepagent("judge", config, "--trees", trees, "--against", opposite, "--out", tmp_path / "both")
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert figures["opposite (one's best is the other's worst)"] == 1
    assert figures["same best"] == figures["agreement"] == 0
    assert figures["Cohen's kappa"] <= 0
    reversals = rows(tmp_path / "both" / "against" / "preferences.jsonl")
    assert {row["chosen"] for row in reversals} == {row["rejected"] for row in before}
    assert rows(tmp_path / "both" / "differences.jsonl")
    assert sum(tree["judging"]["pairs"] for tree in rows(tmp_path / "both" / "trees.jsonl")) >= len(before)
    rerun = stepagent("judge", config, "--trees", trees, "--out", tmp_path / "same")
    assert rerun.returncode == 0


def test_a_judge_is_measured_on_labelled_pairs(
    stepagent: Command,
    config: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "pairs.jsonl"
    pair = {"question": "q", "prefix": [], "first": "good", "second": "bad", "winner": "first"}
    swapped = {**pair, "first": "bad", "second": "good", "winner": "second"}
    wrong = {**pair, "winner": "second"}
    data.write_text("".join(json.dumps(row) + "\n" for row in (pair, swapped, wrong, pair)))
    result = stepagent("judge", config, "--evaluate", data, "--out", tmp_path / "q")
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "q" / "metrics.json").read_text())
    assert figures["pairs"] == 4
    assert figures["right (in both positions)"].startswith("75.0%")
    assert figures["both positions agree"].startswith("100.0%")
    assert figures["requests per verdict"] == 2
    assert figures["macro F1"] == pytest.approx((2 * 2 / (3 + 2) + 2 * 1 / (1 + 2)) / 2)
    assert [row["right"] for row in rows(tmp_path / "q" / "items.jsonl")].count(True) == 3
    assert result.stdout.rstrip().endswith(f"report: {tmp_path / 'q' / 'report.html'}")
    page = (tmp_path / "q" / "report.html").read_text()
    for words in ("1 wrong", "second step – labelled better", "A is right. [[A]]", "75.0% ("):
        assert words in page, "a wrong verdict is shown with its pair, its label and the judge's words"
    sampled = stepagent("judge", config, "--evaluate", data, "--sample", 2, "--out", tmp_path / "some")
    assert json.loads((tmp_path / "some" / "metrics.json").read_text())["pairs"] == 2, sampled.stderr


def test_single_steps_need_a_judge_that_scores_them(
    stepagent: Command,
    config: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "bench.jsonl"
    bench = {"problem": "q", "steps": ["good", "bad", "good"], "label": 1}
    data.write_text("".join(json.dumps(row) + "\n" for row in (bench, {**bench, "label": -1})))
    result = stepagent("judge", config, "--evaluate", data, "--out", tmp_path / "q")
    assert result.returncode == 2
    assert "cannot say whether one is right: use prm, pointwise or rollouts" in result.stderr
    grades = '[{pattern: "<step>\\ngood", say: ["Score: 9"]}, {pattern: "<step>\\nbad", say: ["Score: 2"]}]'
    overrides = [
        "--set",
        "judge.kind=pointwise",
        "--set",
        f"judge.backend={{kind: scripted, rules: {grades}}}",
    ]
    graded = stepagent("judge", config, "--evaluate", data, "--out", tmp_path / "g", *overrides)
    assert graded.returncode == 0, graded.stderr
    figures = json.loads((tmp_path / "g" / "metrics.json").read_text())
    assert figures["first wrong step found"].startswith("100.0%")
    assert figures["right solutions passed"].startswith("0.0%")
    items = rows(tmp_path / "g" / "items.jsonl")
    assert [item["predicted"] for item in items] == [1, 1]
    page = (tmp_path / "g" / "report.html").read_text()
    assert "called wrong by the judge" in page
    assert "No step is labelled wrong." in page


def test_the_modes_of_judge_exclude_each_other(
    stepagent: Command,
    config: Path,
    tmp_path: Path,
) -> None:
    result = stepagent("judge", config, "--out", tmp_path / "x")
    assert result.returncode == 2
    assert "give one of --data, --trees, --evaluate and --tune" in result.stderr
