"""What is counted of a judge, and how a judge is measured on labelled data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from fakes import step

from stepagent import DataError, Usage, Verdict, Vote
from stepagent.files.labelled_rows import LabelledPair, LabelledSolution, read_labelled
from stepagent.judges.measuring import JudgeCounts, measure
from stepagent.stages.measure_judge import calibration_error, share


def test_counts_of_a_verdict_by_hand() -> None:
    """0 and 1: both seats for 0, the longer; 0 and 2: the first seat twice; 1 and 2: a tie and unparsed."""
    votes = (
        Vote(0, 1, "first"),
        Vote(1, 0, "second"),
        Vote(0, 2, "first"),
        Vote(2, 0, "first"),
        Vote(1, 2, "tie"),
        Vote(2, 1, "unparsed", asked_again=True),
    )
    verdict = Verdict("ok", (1.0, 0.0, 0.5), 0, 1, 0.8, votes)
    counts = measure(verdict, [step("long\n"), step("s\n"), step("mid\n")])
    assert (counts.votes, counts.first, counts.second, counts.ties, counts.unparsed) == (6, 3, 1, 1, 1)
    assert (counts.pairs, counts.agreed, counts.asked_again) == (2, 1, 1)
    assert (counts.unequal_length, counts.longer_won) == (1, 1)
    assert (counts.unequal_likelihood, counts.likelier_won) == (1, 1), "-1 over five tokens beats -1 over two"
    figures = (counts + counts).figures()
    assert figures["both seats agree"] == "50.0%"
    assert figures["first seat preferred"] == "75.0%"
    assert figures["longer step preferred"] == "100.0%"
    assert figures["asked again for a verdict"] == 2
    lengths, scores = (4.0, 1.0, 3.0), (1.0, 0.0, 0.5)
    x, y = (tuple(v - sum(values) / 3 for v in values) for values in (lengths, scores))
    expected = sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(
        sum(a * a for a in x) * sum(b * b for b in y)
    )
    assert figures["correlation of score and length"] == f"{expected:+.2f}"


def test_judges_without_seats_are_counted_by_their_scores() -> None:
    verdict = Verdict("ok", (0.2, 0.9, math.nan), 1, 0, 0.8, (), Usage())
    counts = measure(verdict, [step("longer\n"), step("s\n"), step("x\n")])
    assert (counts.votes, counts.pairs) == (0, 0)
    assert (counts.unequal_length, counts.longer_won) == (1, 0)
    assert "both seats agree" not in counts.figures()
    assert JudgeCounts().figures() == {}


def test_shares_and_calibration_by_hand() -> None:
    """Wilson for 8 of 10. One bin: margins 0.9 and 0.9, one of two right: |1.8 - 1| / 2."""
    assert share(8, 10) == "80.0% (49.0 to 94.3)"
    assert share(0, 0) == "–"
    assert calibration_error([(0.9, True), (0.9, False)]) == pytest.approx(0.4)
    assert calibration_error([(1.0, True), (0.5, True), (0.5, False)]) == pytest.approx(0.0)


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_four_projects_are_told_by_their_keys(tmp_path: Path) -> None:
    eft = {"question": "q", "prefix": ["a\n"], "first": "x", "second": "y", "winner": "second"}
    prm800k = {
        "question": {"problem": "p"},
        "label": {
            "steps": [
                {
                    "completions": [
                        {"text": "good", "rating": 1},
                        {"text": "bad", "rating": -1},
                        {"text": "so", "rating": 0},
                    ],
                    "chosen_completion": 0,
                },
                {
                    "completions": [{"text": "worse", "rating": -1}, {"text": "fine", "rating": 1}],
                    "chosen_completion": None,
                },
            ]
        },
    }
    shepherd = {
        "input": "How many? Step 1: two ки\nStep 2: five ки",
        "label": "How many? Step 1: two +\nStep 2: five -",
        "task": "GSM8K",
    }
    bench = {"problem": "p", "steps": ["a", "b"], "label": -1, "id": "x"}
    items = read_labelled(write(tmp_path / "d.jsonl", eft, prm800k, shepherd, bench), None, 0)
    assert items == [
        LabelledPair("q", ("a\n",), "x", "y", "second"),
        LabelledPair("p", (), "good", "bad", "first"),
        LabelledPair("p", ("good\n",), "worse", "fine", "second"),
        LabelledSolution("How many?", ("Step 1: two\n", "Step 2: five\n"), 1),
        LabelledSolution("p", ("a", "b"), None),
    ]
    assert len(read_labelled(tmp_path / "d.jsonl", 2, 0)) == 2
    assert read_labelled(tmp_path / "d.jsonl", 2, 0) == read_labelled(tmp_path / "d.jsonl", 2, 0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, r"d\.jsonl:1: not a row of labelled pairs, PRM800K, .*; it holds text"),
        (
            {"question": "q", "first": "a", "second": "b", "winner": "A"},
            "'winner' input should be 'first', 'second' or 'tie'",
        ),
        ({"problem": "p", "steps": ["a"], "label": 3}, "label 3, but there are only 1 steps"),
        ({"input": "Step 1: a ки\nStep 2: b ки", "label": "Step 1: a +"}, "2 steps in 'input', but 1 labels"),
        ({"input": "a ки", "label": "a +"}, "no 'Step 1:' in 'input'"),
        ({"question": {"problem": "p"}, "label": {"steps": [3]}}, "'label.steps.0'"),
    ],
)
def test_a_bad_labelled_row_is_named(tmp_path: Path, row: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_labelled(write(tmp_path / "d.jsonl", row), None, 0)
