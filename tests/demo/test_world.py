"""The arithmetic world: right lines, the lines that people write, and the words of a marker."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stepagent.demo.data import write_data
from stepagent.demo.world import (
    Operation,
    correct_answer,
    correct_line,
    judgement,
    line_is_right,
    make_question,
    quick_solution,
    worked,
)
from stepagent.files.jsonl import iter_json


def test_one_question_by_hand() -> None:
    question = "61-22+24"
    assert correct_answer(question) == 63
    assert correct_line(question, []) == "61-22=39"
    assert correct_line(question, ["61-22=39"]) == "39+24=63"
    assert correct_line(question, ["61-22=39", "39+24=63"]) == "=63"
    assert correct_line(question, ["61-22=49"]) == "49+24=73", "a wrong line is taken as it stands"
    assert line_is_right(question, ["61-22=49\n"], "49+24=73\n")
    assert not line_is_right(question, [], "61-22=49")
    assert not line_is_right(question, [], "no line")


@pytest.mark.parametrize(
    ("operation", "text", "slipped"),
    [
        (Operation(61, "-", 22), "61-22:11-2=9,6-2-1=3>39", 49),
        (Operation(38, "+", 24), "38+24:8+4=12,3+2+1=6>62", 52),
        (Operation(31, "+", 24), "31+24:1+4=05,3+2+0=5>55", 65),
        (Operation(48, "-", 12), "48-12:8-2=6,4-1-0=3>36", 26),
    ],
)
def test_sums_are_worked_out_digit_by_digit(operation: Operation, text: str, slipped: int) -> None:
    assert worked(operation) == text
    assert operation.slipped == slipped


def test_a_judgement_shows_every_hop() -> None:
    text = judgement("61-22+24", [], "61-22=49", second="61-22=39")
    assert text == "61-22:11-2=9,6-2-1=3>39\nA 4!3,9=9n\nB 3=3,9=9y[[B]]"
    assert judgement("61-22", [], "61-22=49", second="61-22=29").endswith("[[C]]")


def test_people_slip_and_markers_do_not() -> None:
    rng = random.Random(1)
    lines = right = 0
    for _ in range(400):
        question = make_question(rng)
        solution = quick_solution(rng, question) or []
        for depth, line in enumerate(solution[:-1]):
            lines += 1
            right += line_is_right(question, solution[:depth], line)
    assert 0.3 < right / lines < 0.7


def test_no_question_is_in_two_files_and_seeds_repeat(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_data(tmp_path / folder, seed=3, solutions=20, eft=20, problems=30, held_out=30)
    names = ("solutions", "eft_problems", "problems", "held_out")
    files = {name: [row for _, row in iter_json(tmp_path / "a" / f"{name}.jsonl")] for name in names}
    assert {name: len(rows) for name, rows in files.items()} == dict(zip(names, (20, 20, 30, 30), strict=True))
    questions = [{row["question"] for row in rows} for rows in files.values()]
    assert len(set.union(*questions)) == sum(map(len, questions))
    for name in names:
        assert (tmp_path / "a" / f"{name}.jsonl").read_bytes() == (tmp_path / "b" / f"{name}.jsonl").read_bytes()
