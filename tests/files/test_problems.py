"""Problems from every kind of file, presets, samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from stepagent import DataError
from stepagent.config.settings import ProblemSettings
from stepagent.files.presets import PRESETS
from stepagent.files.problems import ProblemFile, problem_path
from stepagent.files.tables import read_raw
from stepagent.types import Problem

ROWS = [{"problem": f"{i} + {i}?", "key": f"p{i}", "result": str(2 * i)} for i in range(20)]


COLUMNS = {"question": "problem", "id": "key", "answer": "result"}


def answered_problems(settings: ProblemSettings, folder: Path) -> list[Problem]:
    return list(ProblemFile.of(settings, folder).with_answers())


def problem_source(folder: Path, kind: str) -> str:
    if kind == "folder":
        Dataset.from_list(ROWS).to_parquet(folder / "set" / "train.parquet")
        return str(folder / "set")
    path = folder / f"p.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        getattr(Dataset.from_list(ROWS), f"to_{kind}")(path)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "folder"])
def test_the_same_rows_from_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    settings = ProblemSettings(path=problem_source(tmp_path, kind), **COLUMNS)
    problems = ProblemFile.of(settings, tmp_path / "run").held_out()
    assert [(problem.id, problem.question, problem.answer) for problem in problems] == [
        (f"p{i}", f"{i} + {i}?", str(2 * i)) for i in range(20)
    ]


def test_a_sample_is_drawn_by_seed_and_made_once(tmp_path: Path) -> None:
    def sample_ids(**options: int) -> list[str]:
        settings = ProblemSettings(path=problem_source(tmp_path, "csv"), **COLUMNS, **options)
        return [problem.id for problem in answered_problems(settings, tmp_path / "run")]

    first = sample_ids(sample=5)
    assert len(set(first)) == 5
    assert first != sorted(first)
    assert sample_ids(sample=5) == first
    assert sample_ids(sample=5, seed=1) != first
    assert sorted(sample_ids(sample=20)) == sorted(f"p{i}" for i in range(20))
    with pytest.raises(DataError, match=r"20 problems, but problems\.sample asks for 21"):
        sample_ids(sample=21)
    path = problem_path(ProblemSettings(path=str(tmp_path / "p.csv"), **COLUMNS), tmp_path / "run")
    modified = path.stat().st_mtime_ns
    assert problem_path(ProblemSettings(path=str(tmp_path / "p.csv"), **COLUMNS), tmp_path / "run") == path
    assert path.stat().st_mtime_ns == modified
    (tmp_path / "p.csv").write_text("problem,key,result\nother?,1,2\n")
    reread = problem_path(ProblemSettings(path=str(tmp_path / "p.csv"), **COLUMNS), tmp_path / "run")
    assert [problem.question for problem in ProblemFile(reread)] == ["other?"], "a changed file is read again"


def test_a_plain_file_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    assert problem_path(ProblemSettings(path=str(path)), tmp_path) == path


@pytest.mark.parametrize(
    ("settings", "text", "message"),
    [
        (
            {"question": "quest"},
            "problem\n1+1?\n",
            r"p\.csv:2: no column 'quest'; it has problem; set problems\.qu",
        ),
        ({"question": "problem", "answer": "gold"}, "problem\nq\n", r"p\.csv:2: no column 'gold'"),
        ({"question": "problem"}, "problem,answer\nq\n", r"p\.csv:2: not as many fields as the header"),
        ({"question": "problem"}, 'problem\n"q\n', r"p\.csv:\d: not valid CSV"),
    ],
)
def test_bad_tables_name_the_line(tmp_path: Path, settings: dict[str, str], text: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        problem_path(ProblemSettings(path=str(path), **settings), tmp_path / "run")
    for name in ("p.parquet", "none.csv"):
        (tmp_path / "p.parquet").write_text("no")
        with pytest.raises(DataError, match=r"not a Parquet file|no such file"):
            list(read_raw(tmp_path / name))


def test_what_is_empty_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("question,answer,id\nq,,\nr,3,x\n")
    problems = answered_problems(ProblemSettings(path=str(path)), tmp_path / "run")
    assert [(problem.id, problem.answer) for problem in problems] == [("1", None), ("x", "3")]


def test_a_preset_survives_the_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: [{"problem": "a?", "answer": "5"}])
    settings = ProblemSettings.model_validate(ProblemSettings(path="math500").model_dump(mode="json"))
    assert [problem.question for problem in answered_problems(settings, tmp_path)] == ["a?"]


def test_presets_read_worked_solutions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def load(name: str, subset: str | None, split: str) -> list[dict[str, str]]:
        loads.append((name, subset, split))
        return [
            {"question": "a?", "answer": "1 + 1 = 2\nso 5\n#### 1,234"},
            {"question": "b?", "answer": "a proof of 7"},
        ]

    monkeypatch.setattr("datasets.load_dataset", load)
    problems = answered_problems(ProblemSettings(path="gsm8k"), tmp_path)
    assert loads == [("openai/gsm8k", "main", "train")]
    assert [(problem.id, problem.answer) for problem in problems] == [("1", "1,234"), ("2", None)]
    test_split = ProblemSettings(path="gsm8k", split="test", sample=1)
    assert len(answered_problems(test_split, tmp_path)) == 1
    assert loads[1:] == [("openai/gsm8k", "main", "test")]
    assert set(PRESETS) == {"gsm8k", "math", "math500", "numina", "aime", "olympiadbench"}


def test_an_answer_that_cannot_be_had_is_named_before_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('question,answer\nq,a proof\nr,"so \\boxed{3}"\n')
    table = ProblemFile.of(ProblemSettings(path=str(path), worked=True), tmp_path / "run")
    assert [problem.answer for problem in table.with_answers()] == [None, "3"]
    with pytest.raises(DataError, match="problem '1' has no 'answer' to evaluate against"):
        table.held_out()


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
        ProblemFile(path)
