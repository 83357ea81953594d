"""Pairs of a right and a wrong line (benchmarks/real_data.py), from lines as people write them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from real_data import make_data, wrong_line


@pytest.mark.parametrize(
    "line",
    [
        "2 + 3 = 5",
        "-2 - 3 = -5",
        "1,000 - 5 = 995",
        "5*X + 3 = 18",
        "2x * 4 = 8x",
        "$12 / 4 = $3",
        "x = 7",
        "#### 1,000",
        "He has 3 apples.",
        "5 + five = 10",
    ],
)
def test_a_wrong_line_differs_in_a_number_or_an_operator(line: str) -> None:
    rng = random.Random(0)
    for _ in range(50):
        wrong = wrong_line(line, ["1,000", "4", "0", "2.5"], rng)
        assert wrong != line
        assert wrong is None or wrong.replace(",", "") != line.replace(",", "")


def test_a_line_without_a_number_has_no_wrong_one() -> None:
    assert wrong_line("So that is all.", ["4"], random.Random(0)) is None


def test_gsm8k_with_algebra_becomes_data(tmp_path: Path) -> None:
    rows = [
        {"question": f"{n} and 1,200?", "answer": f"5*X + {n} = 18\nX = <<(18-{n})/5=3>>3\n#### {n},000"}
        for n in range(1, 9)
    ]
    for part in ("train", "test"):
        text = "".join(json.dumps({**row, "question": f"{part} {row['question']}"}) + "\n" for row in rows)
        (tmp_path / f"gsm8k_{part}.jsonl").write_text(text)
    make_data("gsm8k", tmp_path, tmp_path / "out", sft=4, validation=2, same_kind=1, seed=0)
    pairs = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 8
    assert all(pair["first"] != pair["second"] for pair in pairs)
    # Of eight problems: four are shown solved, two are for settings, one is held out, one is searched.
    held_out = [json.loads(line) for line in (tmp_path / "out" / "held_out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in held_out] == ["same-0", *(f"test-{place}" for place in range(8))]
    searched = json.loads((tmp_path / "out" / "problems.jsonl").read_text())
    assert searched["question"] not in {row["question"] for row in held_out}
