"""JSONL, prompts, runs, answers: the files a user touches."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepagent import ConfigError, DataError, Problem
from stepagent.answers import final_answer, is_correct
from stepagent.config.prompts import load_prompt
from stepagent.files.jsonl import drop_torn_line, iter_json, read_rows, write_atomic, write_rows
from stepagent.files.problems import load_problems
from stepagent.files.runs import RunFolder


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [Problem("a", "1+1", "2", {"from": "x"}), Problem("b", "π\n\\frac{1}{2}")]
    write_rows(tmp_path / "r.jsonl", rows)
    assert read_rows(tmp_path / "r.jsonl", Problem) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "q"}\n{"question":\n', r"p\.jsonl:2: not valid JSON"),
        ('{"question": "q"}\n[1]\n', r"p\.jsonl:2: expected a JSON object"),
        ('\n{"id": "a"}\n', r"p\.jsonl:2: 'question' field required; a problem is a row such as"),
        ('{"question": "  "}\n', r"p\.jsonl:1: the 'question' is empty"),
        (
            '{"question": "q", "id": 1}\n{"question": "r", "id": "1"}\n',
            r"p\.jsonl:2: the id '1' is also in line 1",
        ),
        ("", "no problems in the file"),
        ('{"question": ' + "[" * 5000 + "\n", r"p\.jsonl:1: not valid JSON"),
        ('{"question": "q", "answer": 1' + "0" * 5000 + "}\n", r"p\.jsonl:1: not valid JSON"),
        ('{"question": 7}\n', r"p\.jsonl:1: 'question' input should be a valid string"),
    ],
)
def test_bad_problem_files_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_problems(path)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"question": "q"}\n\n' * 20 + b'{"question": "\xff"}\n')
    with pytest.raises(DataError, match=r"p\.jsonl:41: not valid UTF-8"):
        list(iter_json(path))


def test_a_torn_last_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n{"a": ')
    drop_torn_line(path)
    assert path.read_text() == '{"a": 1}\n'
    drop_torn_line(tmp_path / "none.jsonl")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"


def test_placeholders_are_filled_once_and_braces_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.md"
    path.write_text("---\nsystem: Be {exact}.\n---\n\\boxed{} {x} {question} {other}\n")
    system, user = load_prompt(str(path), ("question",)).messages({"question": "{question} {x}"})
    assert system.content == "Be {exact}."
    assert user.content == "\\boxed{} {x} {question} {x} {other}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Solve {qestion}", r"placeholder \{question\} is missing"),
        ("---\nlabels: {first: A}\n---\n{question}", "'labels' needs 'first' and 'second'"),
        ("---\nlabels: {first: A, second: AB}\n---\n{question}", "one verdict label contains another"),
        ('---\nlabels: {first: "", second: B}\n---\n{question}', "a verdict label is empty"),
        ("---\nlable: x\n---\n{question}", "only 'system', 'labels' and 'scale'"),
    ],
)
def test_bad_prompts_are_refused_at_load(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.md"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_prompt(str(path), ("question",))


def test_an_unknown_prompt_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"no prompt 'slove'.*solve"):
        load_prompt("slove", ())


@pytest.mark.parametrize(
    ("solution", "reference", "right"),
    [
        ("Step 1: x\nStep 2: so \\boxed{\\frac{1}{2}}", "0.5", True),
        ("first \\boxed{3}, then \\boxed{4}", "4", True),
        ("\\boxed{4", "4", False),
        ("61-22=39\n=39", "39", True),
        ("61-22=39\n=49", "39", False),
        ("The answer is 1,234.", "1234", True),
        ("nothing here", "4", False),
        ("", "4", False),
        ("\\boxed{(1, 2)}", "(1,2)", True),
        ("\\boxed{1,2}", "12", False),
        ("\\boxed{(1,2)}", "(12)", False),
        ("\\boxed{12,345}", "12345", True),
    ],
)
def test_final_answers(solution: str, reference: str, right: bool) -> None:
    assert is_correct(solution, reference) is right


def test_an_open_box_is_no_answer() -> None:
    assert final_answer("\\boxed{4") is None


def test_a_stage_runs_once_again_when_something_changed_and_goes_on_when_it_was_cut_off(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path / "run")
    source, result = tmp_path / "in", tmp_path / "out"
    source.write_text("1")
    calls = []

    def work() -> None:
        calls.append(result.read_text() if result.exists() else "")
        result.write_text("half")
        if len(calls) == 2:
            raise KeyboardInterrupt
        result.write_text("whole")

    def stage(settings: object) -> bool:
        return run.stage("s", {"in": source}, {"out": result}, settings, work)

    assert stage({"a": 1, "b": 2})
    assert not stage({"b": 2, "a": 1})
    with pytest.raises(KeyboardInterrupt):
        stage({"a": 2})
    assert stage({"a": 2}), "a stage that was cut off runs again"
    assert calls == ["", "", "half"], "other settings start afresh, the same settings go on"
    source.write_text("2")
    assert stage({"a": 2})
    result.write_text("touched")
    assert stage({"a": 2})
    assert not stage({"a": 2})
    assert stage({"a": 3})
    assert (tmp_path / "out.stale").read_text() == "whole", "what other settings made is moved aside"


def test_other_hub_models_are_other_inputs(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    calls: list[str] = []

    def stage(model: str) -> bool:
        return run.stage("s", {"model": Path(model)}, {}, {}, lambda: calls.append(model))

    assert stage("org/one")
    assert not stage("org/one")
    assert stage("org/two")
