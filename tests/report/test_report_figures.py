"""The figures of a report are those of summary.json and of the rows, added up again without the code of the report."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepagent.report.page import write_report
from stepagent.report.shares import paired_gain, wilson


def raw(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def number(cell: str) -> float:
    return float(cell.replace(",", "").replace("−", "-").rstrip("%"))


def check_models(page: Any, run: Path) -> None:
    """Every model's row: greedy accuracy as in summary.json and by its solved problems, with Wilson's interval."""
    for model in json.loads((run / "summary.json").read_text())["models"]:
        row = page.row("result", model["name"])
        solved = json.loads((run / "evaluation" / model["name"] / "metrics.json").read_text())["solved"]
        low, high = wilson(sum(solved), len(solved))
        shown = f"{100 * model['greedy_accuracy']:.1f}{100 * low:.1f}–{100 * high:.1f} of {len(solved):,}"
        assert row[1].replace(" ", "") == shown.replace(" ", "")
        if model["preferences"]:
            assert f"{model['preferences']:,}" in row


def check_rounds(page: Any, run: Path) -> None:
    """Every round's row: trees, levels, pairs and votes, counted in the raw rows."""
    names = page.rows["behaviour"][0]
    for path in sorted(run.glob("round_*")):
        trees = raw(path / "trees.jsonl")
        levels = [level for tree in trees for level in tree["levels"]]
        votes = [vote for level in levels for vote in (level["verdict"] or {}).get("votes", ())]
        pairs = [x for x in levels if x["verdict"] and x["verdict"]["status"] == "ok" and not x["abandoned"]]
        row = dict(zip(map(str.strip, names), page.row("behaviour", path.name.replace("_", " ")), strict=True))
        counts = [number(row[name]) for name in ("trees", "levels", "pairs", "votes")]
        assert counts == [len(trees), len(levels), len(pairs), len(votes)]
        decisive = Counter(vote["outcome"] for vote in votes)
        first = 100 * decisive["first"] / (decisive["first"] + decisive["second"])
        assert number(row["first position preferred"]) == pytest.approx(first, abs=0.05)


def check_costs(page: Any, run: Path) -> None:
    """The total of the rounds' rows is that of all rows on disk, and the seconds are those of the manifest."""
    usages = [row["usage"] for path in run.rglob("*.jsonl") for row in raw(path) if "usage" in row]
    verdicts = [v for path in run.rglob("*.jsonl") for row in raw(path) for v in row.get("verdicts", ())]
    verdicts += [row["verdict"] for path in run.rglob("judged_*.jsonl") for row in raw(path)]
    usages += [verdict["usage"] for verdict in verdicts]
    columns = ("requests", "prompt_tokens", "completion_tokens")
    expected = [sum(usage[column] for usage in usages) for column in columns]
    total = page.row("cost", "total")
    assert [number(cell) for cell in total[2:5]] == expected
    names = [*(f"round {i}" for i in range(1, 9)), "before round 1"]
    rounds = [[cell.strip() for cell in row] for row in page.rows["cost"] if row and row[0].strip() in names]
    assert [sum(number(row[column]) for row in rounds) for column in (2, 3, 4)] == expected
    manifests = [
        json.loads(path.read_text())
        for path in (run / "manifest.json", run / "data/eft/manifest.json")
        if path.is_file()
    ]
    seconds = sum(entry.get("seconds", 0) for manifest in manifests for entry in manifest["stages"].values())
    assert number(total[1]) == pytest.approx(seconds, abs=0.051)


def test_figures_are_those_of_the_rows(run: Path, tables: Callable[[Path], Any]) -> None:
    page = tables(write_report(run))
    check_models(page, run)
    check_rounds(page, run)
    check_costs(page, run)
    assert page.row("cost", "gpt") == ["gpt", "2", "2,000,000", "1,000,000", "4"]
    money = [
        number(row[5])
        for row in page.rows["cost"]
        if row and row[0].strip() in ("before round 1", "round 1", "round 2")
    ]
    prompt, sampled = (number(cell) for cell in page.row("cost", "total")[3:5])
    assert sum(money) == pytest.approx((prompt * 1.0 + sampled * 2.0) / 1e6, rel=1e-3)
    assert page.row("result", "M_3")[-1] == "tokens per step 8.0 -> 80.0"
    gain = next(row for row in page.rows["result"] if [cell.strip() for cell in row[:2]] == ["M_2", "M_3"])
    low, high = paired_gain([True] * 5 + [False] * 5, [True] * 8 + [False] * 2)[1:]
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")
    assert [cell.strip() for cell in gain[2:]] == ["+30.0", interval, "3", "0"]
    assert page.row("funnel", "pairs kept") == ["pairs kept", "7"]
    assert page.row("judge", "M_1")[1:3] == ["3", "66.7 %"]
    assert "wrong, I say" in page.text
    assert "it is 2" in page.text, "a wrong verdict is shown with its pair"


def test_the_paired_interval_by_hand() -> None:
    """Two of four gained and one lost: (2 + 1) / 6 - (1 + 1) / 6 is the centre, and the variance is
    (3/6 + 2/6 - (1/6)^2) / 6. Without any change ten items still say no more than that fewer than a quarter change."""
    gain, low, high = paired_gain([True, False, False, True], [True, True, True, False])
    half = 1.96 * ((3 / 6 + 2 / 6 - 1 / 36) / 6) ** 0.5
    assert (gain, low, high) == pytest.approx((0.25, 1 / 6 - half, 1 / 6 + half))
    unchanged = paired_gain([True] * 10, [True] * 10)
    assert unchanged == pytest.approx((0.0, -1.96 * (2 / 12 / 12) ** 0.5, 1.96 * (2 / 12 / 12) ** 0.5))
    assert paired_gain([False] * 10, [True] * 10)[2] == 1.0


def test_parts_of_a_run_have_reports_too(run: Path, tables: Callable[[Path], Any]) -> None:
    round_page = tables(write_report(run / "round_1"))
    assert number(round_page.row("behaviour", "search")[2]) == 4
    model_page = tables(write_report(run / "evaluation" / "M_2"))
    assert model_page.row("result", "M_2")[1].startswith("50.0")
    assert "wrong answer" in model_page.text or "right" in model_page.text


def test_commands_end_with_a_report(stepagent_in: Callable[..., subprocess.CompletedProcess[str]], run: Path) -> None:
    result = stepagent_in("report", run, "--out", run / "r.html")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith(f"report: {run / 'r.html'}")
    assert (run / "r.html").stat().st_size > 10_000
    missing = stepagent_in("report", run / "gone")
    assert missing.returncode == 2
    assert "no such folder" in missing.stderr
    version = stepagent_in("--version")
    assert version.stdout.startswith("stepagent ")


def test_a_stage_costs_what_its_generator_and_its_judge_cost(run: Path, tables: Callable[[Path], Any]) -> None:
    """Two models with prices of their own: a tree's tokens are parted by who took them."""
    config = (run / "config.yaml").read_text().replace("backend: {kind: openai}", "backend: {kind: openai, model: own}")
    judge = "judge: {kind: pairwise, backend: {kind: openai, model: gpt}}"
    config = config.replace("prices: {gpt:", f"{judge}\nprices: {{own: {{prompt: 0.5}}, gpt:")
    (run / "config.yaml").write_text(config)
    judged, whole = [0, 0], [0, 0]
    for line in (run / "round_1" / "trees.jsonl").read_text().splitlines():
        tree = json.loads(line)
        verdicts = [level["verdict"]["usage"] for level in tree["levels"] if level["verdict"]]
        for place, column in enumerate(("prompt_tokens", "completion_tokens")):
            whole[place] += tree["usage"][column]
            judged[place] += sum(usage[column] for usage in verdicts)
    own = (whole[0] - judged[0]) * 0.5
    expected = (own + judged[0] * 1.0 + judged[1] * 2.0) / 1e6
    assert judged != [0, 0] != whole
    assert number(tables(write_report(run)).row("cost", "round_1: search")[5]) == pytest.approx(expected, rel=1e-3)


def test_each_round_shows_how_its_model_was_proven(run: Path, tables: Callable[[Path], Any]) -> None:
    lines = [
        {"version": {"index": i, "path": f"M_{i}"}, "method": "reload", "proof": {"outcome": "proven", "to_new": i / 8}}
        for i in (1, 2, 3)
    ]
    (run / "server").mkdir(exist_ok=True)
    (run / "server" / "deployments.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    text = tables(write_report(run)).text
    assert "proven on the server by reload: proven, 0.25 nats a token from it" in text
    assert "proven on the server by reload: proven, 0.38 nats a token from it" in text
