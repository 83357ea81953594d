"""`stepagent judge --tune`: a judge chosen on some pairs and measured on others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from stepagent.errors import DataError
from stepagent.stages.tune_judge import split_pairs
from stepagent.types import StepPair

Command = Callable[..., CompletedProcess[str]]

CONFIG = """
model: none
problems: {folder}/p.jsonl
backend: {{kind: scripted, rules: [
  {{pattern: "verdict of an\\\\nexpert", say: ["Prefer the good step."]}},
  {{pattern: "impartial judge[\\\\s\\\\S]*Criteria of this task:\\\\nPrefer the good[\\\\s\\\\S]*proposal_A>\\\\ngood",
    say: ["[[A]]"]}},
  {{pattern: "impartial judge[\\\\s\\\\S]*Criteria of this task:\\\\nPrefer the good", say: ["[[B]]"]}},
  {{pattern: "impartial judge", say: ["[[A]]", "[[B]]"]}},
  {{pattern: "", say: ["[[A]]"]}}]}}
judge: {{kind: pairwise, prompt: short_judge}}
"""


def pair(number: int, question: int) -> StepPair:
    row = StepPair(f"q{question}", (), f"good {number}", second=f"bad {number}", winner="first")
    return row if number % 3 else row.swapped()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixty pairs of thirty problems, and a config whose model judges well once it is told how."""
    (tmp_path / "c.yaml").write_text(CONFIG.format(folder=tmp_path))
    path = tmp_path / "pairs.jsonl"
    rows = (pair(i, i // 2) for i in range(60))
    keys = ("question", "first", "second", "winner")
    path.write_text("".join(json.dumps({key: getattr(row, key) for key in keys}) + "\n" for row in rows))
    return path


def test_no_problem_is_both_tuned_and_measured_on() -> None:
    pairs = [pair(i, i // 3) for i in range(120)]
    split = split_pairs(pairs, 0, "pairs")
    parts = [{row.question for row in part} for part in (split.examples, split.tuning, split.held_out)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert 60 <= len(split.held_out) <= 62
    assert Counter(row.winner for row in split.examples) == {"first": 2, "second": 2}


def test_one_label_and_too_few_pairs_are_sentences_with_counts() -> None:
    one_sided = [StepPair(f"q{i}", (), "a", second="b", winner="second") for i in range(60)]
    with pytest.raises(DataError, match=r"its 60 pairs have one label only \(60 second\).*exchange first and second"):
        split_pairs(one_sided, 0, "pairs")
    with pytest.raises(
        DataError, match=r"20 pairs of 20 problems are too few.*4 examples 6 would be left.*10 are held"
    ):
        split_pairs([pair(i, i) for i in range(20)], 0, "pairs")
    with pytest.raises(DataError, match=r"60 pairs of 1 problems are too few.* 0 would be left .* 60 are held out"):
        split_pairs([pair(i, 0) for i in range(60)], 0, "pairs")


def test_the_chosen_judge_is_measured_on_held_out_pairs_and_can_be_named_in_the_config(
    stepagent: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    result = stepagent("judge", tmp_path / "c.yaml", "--tune", data, "--out", out)
    assert result.returncode == 0, result.stderr
    tuning = json.loads((out / "tuning.json").read_text())
    assert tuning["pairs"] == {"examples": 4, "tuning": 22, "held_out": 30}
    assert tuning["chosen"] == "pairwise, judge_pairwise, rewritten criteria"
    assert tuning["held_out"] == {"own": 0, "chosen": 30}, "short_judge always says A"
    assert tuning["gain"] == 1
    assert 0.8 < tuning["interval"][0] < tuning["interval"][1] == 1
    refusals = {trial["name"]: trial["refusal"] for trial in tuning["trials"] if trial["refusal"]}
    assert set(refusals) >= {"logprob, judge_logprob"}
    assert "gives no log-probabilities" in refusals["logprob, judge_logprob"]
    text = (out / "judge.yaml").read_text()
    assert "gain over the judge before it: +100.0 points" in text
    section = yaml.safe_load(text)["judge"]
    assert section == {"kind": "pairwise", "prompt": "judge_pairwise", "criteria": "Prefer the good step."}
    override = f"judge={out / 'judge.yaml'}"
    checked = stepagent("config", "check", tmp_path / "c.yaml", "--set", override)
    assert "no file with" not in checked.stderr
    named = stepagent("judge", tmp_path / "c.yaml", "--evaluate", data, "--out", tmp_path / "q", "--set", override)
    assert named.returncode == 0, named.stderr
    assert json.loads((tmp_path / "q" / "metrics.json").read_text())["right (in both positions)"].startswith("100.0%")
    again = stepagent("judge", tmp_path / "c.yaml", "--tune", data, "--out", out)
    assert "already done" in again.stdout


def test_the_closing_table_fits_80_columns(
    stepagent: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "c.yaml").write_text((tmp_path / "c.yaml").read_text().replace("short_judge", "judge_pairwise"))
    with_criteria = ("--set", "judge.criteria=Units count.")
    result = stepagent("judge", tmp_path / "c.yaml", "--tune", data, "--out", tmp_path / "out", *with_criteria)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "│" in line]
    assert max(map(len, lines)) <= 80
    names = [line.split("│")[1].strip() for line in lines]
    for row in ("the config's own", "held out: chosen", "gain (95 %)", "comparisons"):
        assert row in names
    assert not any("…" in line for line in lines)


def test_the_budget_is_kept_and_a_larger_one_goes_on(stepagent: Command, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("judge", tmp_path / "c.yaml", "--tune", data, "--out", out, "--budget")
    tight = stepagent(*command, 100)
    assert tight.returncode == 2
    assert "--budget 100: too few comparisons to try" in tight.stderr
    least = int(tight.stderr.split("give ")[1].split()[0])
    assert stepagent(*command, least).returncode == 0
    tuning = json.loads((out / "tuning.json").read_text())
    rows = {path: path.read_bytes() for path in (out / "verdicts").iterdir()}
    assert sum(content.count(b"\n") for content in rows.values()) <= tuning["comparisons"] <= least
    assert stepagent(*command, 3000).returncode == 0
    assert all(path.read_bytes().startswith(content) for path, content in rows.items()), "no verdict is asked for twice"
    assert json.loads((out / "tuning.json").read_text())["comparisons"] > tuning["comparisons"]


def test_the_judge_stays_where_no_other_is_better(stepagent: Command, data: Path, tmp_path: Path) -> None:
    always_first = '--set=backend={kind: scripted, rules: [{pattern: "", say: ["[[A]]"]}]}'
    result = stepagent("judge", tmp_path / "c.yaml", "--tune", data, "--out", tmp_path / "out", always_first)
    assert result.returncode == 0, result.stderr
    tuning = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert (tuning["chosen"], tuning["gain"]) == ("the config's own", 0)
    assert tuning["interval"][0] < 0 < tuning["interval"][1], "thirty equal pairs are no certainty"
    section = yaml.safe_load((tmp_path / "out" / "judge.yaml").read_text())["judge"]
    assert section == {"kind": "pairwise", "prompt": "short_judge"}


def test_labelled_steps_and_a_missing_section_are_one_sentence(stepagent: Command, data: Path, tmp_path: Path) -> None:
    bench = {"problem": "q", "steps": ["good", "bad"], "label": 1}
    data.write_text(data.read_text() + json.dumps(bench) + "\n")
    result = stepagent("judge", tmp_path / "c.yaml", "--tune", data, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "1 of 61 rows label single steps; a judge is tuned on labelled pairs" in result.stderr
    wrong = stepagent("config", "check", tmp_path / "c.yaml", "--set", "judge=pairwise")
    assert wrong.returncode == 2
    assert "'judge' 'pairwise' is no file with a section 'judge:'" in wrong.stdout + wrong.stderr
