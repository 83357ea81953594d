"""Whole solutions cut into steps: by rule, by a model that may change nothing; rows without use are set
aside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stepagent.data.cutting import cut, joins_to
from stepagent.files.rows import read_ift

CONFIG = """
model: none
problems: none.jsonl
backend: {{kind: scripted, rules: [
  {{pattern: "keep me", say: ["keep me\\n###\\nwhole."]}},
  {{pattern: "change me", say: ["change\\n###\\nyou."]}}]}}
generator: {{boundary: {boundary}}}
"""


@pytest.mark.parametrize(
    ("text", "steps", "rule"),
    [
        ("Step 1: add.\nStep 2: so 3.\nmore", ["add.", "so 3.\nmore"], "marked"),
        ("We know:\n1. a is 2\n2. b is 3.5\nso 5", ["We know:\na is 2", "b is 3.5\nso 5"], "numbered"),
        ("**Step 1:** x\n\n**Step 2:** y", ["x", "y"], "marked"),
        ("Step 1: 2. is\n1. not\nStep 2: it", ["2. is\n1. not", "it"], "marked"),
        ("1. a\n3. b", ["1. a", "3. b"], "lines"),
        ("### Step 1: x\na\n\n### Step 2: y\n\nso z", ["x\na", "y\n\nso z"], "marked"),
        ("Step 1 - x\na\nStep 2 - y", ["x\na", "y"], "marked"),
        ("(1) x\n(2) y\nz", ["x", "y\nz"], "numbered"),
        ("so\n$$\nx\n$$\n\nthen y", ["so\n$$\nx\n$$", "then y"], "paragraphs"),
        ("a\nb\n\n c \n \nd", ["a\nb", "c", "d"], "paragraphs"),
        ("2+2=4\n4+1=5", ["2+2=4", "4+1=5"], "lines"),
        (
            "First we see that 2.5 is more than 2, e.g. by "
            + "word " * 30
            + "here. Then $x = 3.$ So it ends. "
            + "Now " * 20
            + "done.",
            None,
            "sentences",
        ),
    ],
)
def test_rules_follow_what_the_text_shows(text: str, steps: list[str] | None, rule: str) -> None:
    cuts = cut(text)
    assert cuts is not None
    assert cuts[1] == rule
    if steps is not None:
        assert cuts[0] == steps
    assert joins_to(cuts[0], text)


@pytest.mark.parametrize("text", ["just this.", "", "One short. Two short.", "so\n$$\nx = 1\n$$", "a\n---\nb"])
def test_a_text_without_steps_is_not_cut(text: str) -> None:
    assert cut(text) is None


def test_sentences_are_joined_to_steps_of_so_many_words() -> None:
    text = "We add one and two. Then we add three more to it. So six. Done."
    assert cut(text, (3, 5)) == (
        ["We add one and two.", "Then we add three more to it.", "So six. Done."],
        "sentences",
    )
    assert cut(text, (4, 5)) == (
        ["We add one and two.", "Then we add three more to it. So six. Done."],
        "sentences",
    )
    assert cut(text, (1, 100)) is None


def test_what_a_cut_may_not_change() -> None:
    assert joins_to(["a b", "c"], "a  b\nc")
    assert not joins_to(["a b", "d"], "a b c")
    assert not joins_to(["a b"], "a b c")


def run(folder: Path, rows: list[dict[str, object]], *options: str, boundary: str = "marker") -> str:
    (folder / "c.yaml").write_text(CONFIG.format(boundary=boundary))
    (folder / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "stepagent", "data", "ift", str(folder / "c.yaml")]
    command += ["--source", str(folder / "s.jsonl"), "--out", str(folder / "out"), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr if result.returncode in (0, 2) else "crashed"


@pytest.mark.parametrize(
    ("boundary", "text"),
    [
        ("marker", "Step 1: a\nb\nStep 2: c"),
        ("line", "a b\nc"),
        ("blank_line", "a\nb\n\nc"),
    ],
)
def test_steps_are_written_as_the_generator_writes_them(tmp_path: Path, boundary: str, text: str) -> None:
    run(tmp_path, [{"question": "q", "solution": "a\nb\n\nc"}], boundary=boundary)
    ((_, row),) = read_ift(tmp_path / "out" / "ift.jsonl")
    assert row.text == text


def test_every_row_is_kept_or_set_aside_with_its_reason(tmp_path: Path) -> None:
    good = {"question": "q", "solution": "1+1=2\n\\boxed{2}", "answer": "2"}
    rows: list[dict[str, object]] = [
        good,
        {**good, "answer": "3"},
        {**good, "answer": ""},
        {"question": "q"},
        {"question": 7, "solution": "a\nb"},
        {**good, "solution": "It\u00e2\u20ac\u2122s\n\\boxed{2}"},
        {**good, "solution": "x" * 100_001},
        {**good, "solution": "so \\boxed{2}"},
        {**good, "solution": "a\nStep 3: b\n\\boxed{2}"},
        good,
    ]
    output = run(tmp_path, rows, "--answer", "answer")
    lines = (tmp_path / "out" / "ift.jsonl").read_text().splitlines()
    aside = [json.loads(line) for line in (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()]
    assert len(lines) + len(aside) == len(rows)
    assert [row["reason"] for row in aside] == [
        "does not reach its answer",
        "no 'answer' to reach",
        "no text in 'solution'",
        "no text in 'question'",
        "broken characters",
        "longer than 100,000 characters",
        "shows no steps",
        "holds step marks of its own",
        "the same solution again",
    ]
    assert aside[0]["where"].endswith("s.jsonl:2")
    assert aside[0]["row"] == rows[1]
    assert "cut into steps" in output
    assert "broken characters" in output


def test_a_model_may_cut_and_change_nothing(tmp_path: Path) -> None:
    rows = [{"question": "q", "solution": text} for text in ("keep me whole.", "change me whole.", "a\nb")]
    run(tmp_path, rows, "--by-model")  # type: ignore[arg-type]
    cut_rows = [json.loads(line) for line in (tmp_path / "out" / "ift.jsonl").read_text().splitlines()]
    assert [(row["cut_by"], row["steps"]) for row in cut_rows] == [
        ("lines rule", ["Step 1: a\n", "Step 2: b"]),
        ("the model", ["Step 1: keep me\n", "Step 2: whole."]),
    ]
    (aside,) = (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()
    assert json.loads(aside)["reason"] == "the model changed the text"
    (cuts,) = (tmp_path / "out").glob("cuts_*.jsonl")
    replies = cuts.read_text()
    cuts.write_text(replies.splitlines(keepends=True)[0])
    run(tmp_path, rows, "--by-model")  # type: ignore[arg-type]
    assert sorted(cuts.read_text()) == sorted(replies)


def test_questions_held_out_for_evaluation_are_not_learnt_from(tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text('{"question": "Q  one", "answer": "1"}\n')
    rows: list[dict[str, object]] = [{"question": q, "solution": "a\nb"} for q in ("q ONE", "q two")]
    run(tmp_path, rows, "--set", f"evaluate={{problems: {tmp_path}/held.jsonl}}")
    ((_, row),) = read_ift(tmp_path / "out" / "ift.jsonl")
    assert row.question == "q two"
    assert "evaluate.problems holds" in (tmp_path / "out" / "set_aside.jsonl").read_text()


def test_cutting_by_rule_loads_no_torch(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: none\nproblems: none.jsonl\n")
    (tmp_path / "s.jsonl").write_text('{"question": "q", "solution": "a\\nb"}\n')
    code = f"""
import sys
from pathlib import Path
from stepagent.config.loading import load_config
from stepagent.assembly.session import Session
from stepagent.data.ift import Columns, make_ift
folder = Path({str(tmp_path)!r})
config = load_config(folder / "c.yaml")
with Session(config, folder / "out") as session:
    make_ift(session, str(folder / "s.jsonl"), Columns())
print("torch" in sys.modules)
"""
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.splitlines()[-1] == "False"


def test_a_source_of_which_nothing_can_be_used_is_an_error(tmp_path: Path) -> None:
    run(tmp_path, [{"question": "q", "solution": "a\nb"}])
    before = (tmp_path / "out" / "ift.jsonl").read_text()
    output = run(tmp_path, [{"question": "q", "solution": "no"}])
    assert (tmp_path / "out" / "ift.jsonl").read_text() == before, "an error replaces nothing"
    assert "no column 'problem'; it has question, solution" in run(
        tmp_path, [{"question": "q", "solution": "a\nb"}], "--question", "problem"
    )
    assert "no rows in it" in run(tmp_path, [])
    assert "'boundary' input should be 'marker', 'line' or 'blank_line'" in run(tmp_path, [], boundary="lines")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ift.jsonl", "set_aside.jsonl"}
    assert "no solution could be cut into steps" in output
    assert "set_aside.jsonl says why" in output
