"""The inputs of tests/cases through the commands: the steps that a reader would see, or one sentence on the user's
line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepagent import ConfigError, DataError
from stepagent.commands.main import app
from stepagent.config.loading import load_config
from stepagent.config.prompts import load_judge_prompt
from stepagent.config.settings import ProblemSettings
from stepagent.files.preference_rows import read_preferences
from stepagent.files.problems import ProblemFile
from stepagent.files.rows import read_ift

FILES = Path(__file__).parents[1] / "cases" / "files"
ADDED, DOUBLED = "We add 2 and 3.", "We double: 10."


def ift(folder: Path, source: Path, *options: str, boundary: str = "marker") -> str:
    (folder / "c.yaml").write_text(f"model: none\nproblems: p.jsonl\ngenerator: {{boundary: {boundary}}}\n")
    command = ["data", "ift", str(folder / "c.yaml"), "--source", str(source), "--out", str(folder / "out"), *options]
    result = CliRunner().invoke(app, command)
    return " ".join(f"{result.output} {result.exception or ''}".split())


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        (
            "d1_bold",
            [["Add them\nWe add 2 and 3.", "Double it\nWe double it: 10."], ["Add\nWe add.", "Double\nWe double: 10."]],
        ),
        ("d2_heading", [[ADDED, DOUBLED]] * 3),
        (
            "d3_list",
            [
                [
                    "We look at two equations.",
                    "They are:\n1. x = 3\n2. y = 4",
                    "Now we add them: x + y = 7.",
                    "We check it in the first equation, which holds.",
                    "So the answer is 7.",
                ]
            ],
        ),
        (
            "d4_formula",
            [
                ["So we have $x = 3\n+ 4$ which is 7.", "Thus $x=7$."],
                ["We have \\(x =\n1\\) here.", "So x = 1."],
                ["We draw it.\n[asy]\nsize(100);\ndraw((0,0)--(1,1));\n[/asy]", "Thus the area is 5."],
                ["We run:\n~~~\na = 1\n\nprint(a)\n~~~", "So 1."],
            ],
        ),
        ("d5_think", [["Add 3 and 4.", "So 7."], ["We add 3 and 4.", "So 7."]]),
        ("d7_crlf", [["We add 2 and 3.\nThat is 5.", "We double it.\nThat is 10."]] * 2),
        ("e2_bom", [["We add.", "So 2."]]),
    ],
)
def test_the_steps_are_those_that_a_reader_would_see(tmp_path: Path, name: str, steps: list[list[str]]) -> None:
    ift(tmp_path, FILES / f"{name}.jsonl")
    rows = read_ift(tmp_path / "out" / "ift.jsonl")
    assert [row.text for _, row in rows] == [
        "\n".join(f"Step {number}: {step}" for number, step in enumerate(texts, start=1)) for texts in steps
    ]


def test_a_title_ends_no_sentence(tmp_path: Path) -> None:
    ift(tmp_path, FILES / "d8_abbrev.jsonl", boundary="line")
    ((_, row),) = read_ift(tmp_path / "out" / "ift.jsonl")
    assert [line.partition(" ")[0] for line in row.text.split("\n")] == ["Each", "Then"]
    assert "Then Mr. Brown takes" in row.text


def test_a_latex_command_that_was_read_as_a_control_character_is_set_aside(tmp_path: Path) -> None:
    output = ift(tmp_path, FILES / "d6_control.jsonl")
    assert "no solution could be cut into steps" in output
    (aside,) = (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()
    assert json.loads(aside)["reason"].startswith("broken escapes")
    fine = tmp_path / "fine.jsonl"
    fine.write_text(json.dumps({"question": "q", "solution": "Name\tage\nHalf is \\frac{1}{2}."}))
    assert "by lines rule" in ift(tmp_path, fine)


def test_steps_of_the_file_come_before_rules(tmp_path: Path) -> None:
    steps = ["We add.\n\nThat is 5.", "So 10."]
    source = tmp_path / "s.jsonl"
    rows = [
        {"question": "a", "steps": steps},
        {"question": "b", "solution": "\n".join(steps), "steps": steps},
        {"question": "c", "solution": "We add.\nSo 10.", "steps": ["of another", "solution"]},
        {"question": "d", "solution": steps},
        {"question": "e", "steps": ["all in one\nrow"]},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ift(tmp_path, source, boundary="blank_line")
    cuts = [json.loads(line) for line in (tmp_path / "out" / "ift.jsonl").read_text().splitlines()]
    assert [(row["cut_by"], len(row["steps"])) for row in cuts] == [
        *[("steps of the file", 2)] * 2,
        ("lines rule", 2),
        ("steps of the file", 2),
        ("lines rule", 2),
    ]


def test_five_examples_of_each_reason_are_shown(tmp_path: Path) -> None:
    source = tmp_path / "s.jsonl"
    source.write_text("".join(json.dumps({"question": f"q{i}", "solution": f"whole {i}"}) + "\n" for i in range(9)))
    with source.open("a") as file:
        file.write(json.dumps({"question": "q", "solution": "a\nb"}))
    output = ift(tmp_path, source)
    assert "shows no steps │ 9" in output.replace("  ", " ")
    assert "s.jsonl:5: whole 4" in output
    assert "whole 5" not in output


def read(name: str, folder: Path, **settings: str) -> list[tuple[str, str | None]]:
    file = ProblemFile.of(ProblemSettings(path=str(FILES / name), **settings), folder)
    return [(problem.question, problem.answer) for problem in file.with_answers()]


def test_problems_are_read_or_refused_with_their_line(tmp_path: Path) -> None:
    assert read("e1_array.json", tmp_path, question="problem") == [("3*4?", None)]
    assert read("e4_nan.jsonl", tmp_path) == [("1+1?", "2"), ("1+2?", None)]
    assert read("e5.jsonl", tmp_path) == [("Is 2 prime?", "true"), ("1+1?", None)]
    with pytest.raises(DataError, match=r"e6_surrogate\.jsonl:1: half a surrogate pair"):
        read("e6_surrogate.jsonl", tmp_path, question="problem")
    with pytest.raises(DataError, match=r"e7_empty\.csv:3: the 'question' is empty"):
        read("e7_empty.csv", tmp_path)


def test_preference_rows_keep_their_question() -> None:
    rows = list(read_preferences(FILES / "f1_orca.jsonl"))
    assert [(row.turns[-1].content, row.chosen, row.rejected) for _, row in rows] == [
        ("Tom has 3 boxes of 4 pens. How many pens?", "The result is 12 pens.", "The result is 7 pens."),
        ("What is 2+2?", "4", "5"),
    ]


def test_yaml_says_what_it_looks_like() -> None:
    with pytest.raises(ConfigError, match=r"g1_dup\.yaml:5: the key 'judge' is there already, in line 3"):
        load_config(FILES / "g1_dup.yaml")
    assert load_judge_prompt(str(FILES / "g2_brackets.md"))[1].all() == ("[[A]]", "[[B]]")
    assert load_judge_prompt(str(FILES / "g2_yes.md"))[1].all() == ("yes", "no")
