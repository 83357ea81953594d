"""Files as published: arrays, objects, byte order marks, packed files, tables with blanks; their own places."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import DataError
from stepagent.config.settings import ProblemSettings
from stepagent.files.jsonl import iter_json
from stepagent.files.problems import ProblemFile
from stepagent.files.rows import load_candidates, load_eft, load_labelled_pairs, read_ift
from stepagent.files.tables import read_raw

ROW = {"question": "1+1?", "answer": "2"}
LINE = json.dumps(ROW)
TABLE = "question,answer\n1+1?,2\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", f"[{LINE}]"),
        ("p.json", json.dumps([ROW], indent=2)),
        ("p.json", LINE + "\n"),
        ("p.json", json.dumps(ROW, indent=1)),
        ("p.json", f"\ufeff\n [ {LINE} ]\n"),
        ("p.json", json.dumps({"version": "1", "data": [ROW]})),
        ("p.json", json.dumps({"version": 1, "about": {"a": [1]}, "rows": [ROW]}, indent=2)),
        ("p.JSON", f"[{LINE}]"),
        ("p.jsonl", f"[{LINE}]"),
        ("p.jsonl", f"\ufeff{LINE}\r\n\r\n"),
        ("p.JSONL", LINE),
        ("p.ndjson", LINE),
        ("p", LINE),
        ("p.csv", TABLE),
        ("p.CSV", "\ufeff" + TABLE.replace("\n", "\r\n")),
        ("p.csv", TABLE.replace("\n", "\r")),
        ("p.csv", " question , answer \n1+1?,2\n"),
        ("p.csv", 'question, answer\n"1+1?", "2"\n'),
        ("p.csv", "\n" + TABLE.replace(",", ";") + ";\n\n"),
        ("p.tsv", "\ufeff" + TABLE.replace(",", " \t ").replace("? \t ", "?\t")),
        ("p.TSV", TABLE.replace(",", "\t")),
    ],
)
def test_a_row_reads_the_same_from_every_file(tmp_path: Path, name: str, text: str) -> None:
    for path, content in (
        (tmp_path / name, text.encode()),
        (tmp_path / f"{name}.gz", gzip.compress(text.encode())),
        (tmp_path / f"packed.{name}", gzip.compress(text.encode())),
    ):
        path.write_bytes(content)
        (problem,) = ProblemFile.of(ProblemSettings(path=str(path)), tmp_path / "run").held_out()
        assert (problem.id, problem.question, problem.answer) == ("1", "1+1?", "2"), path


def test_files_that_were_joined_hold_several_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f"\ufeff{LINE}\n\ufeff{LINE}\n")
    assert [row for _, row in read_raw(path)] == [row for _, row in iter_json(path)] == [ROW, ROW]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}},
        {"question": "q", "candidates": [{"a": 1}]},
        {"messages": [{"role": "user", "content": "q"}], "id": 1},
        {"prompt": "q", "completions": ["a"], "labels": [True]},
    ],
)
def test_a_row_that_holds_a_list_is_a_row(tmp_path: Path, row: dict[str, object]) -> None:
    path = tmp_path / "p.json"
    for text in (json.dumps(row), json.dumps([row]), json.dumps(row, indent=2)):
        path.write_text(text)
        assert [row for _, row in read_raw(path)] == [row]


def test_places_are_where_a_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"data":\n[\n {"a": 1},\n\n {"a":\n 2},\n{"a": 3}]}')
    assert [place for place, _ in read_raw(path)] == [f"{path}:{line}" for line in (3, 5, 7)]
    table = tmp_path / "p.csv"
    table.write_text('\na,b\n"1\n1",2\n\n3,4\n')
    assert [place for place, _ in read_raw(table)] == [f"{table}:{line}" for line in (3, 6)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.json", '[\n {"question": "q"},\n {"question": }\n]', r"p\.json:3: not valid JSON"),
        ("p.json", '[\n {"question": "q"},\n 3\n]', r"p\.json:3: expected a JSON object"),
        ("p.json", '[\n {"question": "q"},\n {"question": " "}\n]', r"p\.json:3: the 'question' is empty"),
        ("p.json", '[\n {"question": "q"}\n', r"p\.json:2: not valid JSON"),
        ("p.json", '[{"question": "q"}]\n[]', r"p\.json:2: not valid JSON"),
        (
            "p.json",
            '[\n{"question": "q", "id": 1},\n{"question": "r", "id": 1}]',
            r"json:3: the id '1' is also in line 2",
        ),
        ("p.json", "[]", r"p\.json: no problems in the file"),
        ("p.jsonl", '{"question":\n', r"p\.jsonl:1: not valid JSON"),
        ("p.jsonl", '{"question": "\\ud83d"}\n', r"p\.jsonl:1: half a surrogate pair"),
        ("p.json", '[{"question": "q",\n "answer": "\\ud83d"}]', r"p\.json:1: half a surrogate pair"),
        ("p.json", '[{"question": "q",\n "metadata": {"a": ["\\ud83d"]}}]', r"p\.json:1: half a surrogate pair"),
        ("p.csv", "question,answer\n1+1?,2\n,3\n", r"p\.csv:3: the 'question' is empty"),
        ("p.csv", 'question,answer,id\n"a\nb",1,x\nc,2,x\n', r"p\.csv:4: the id 'x' is also in line 2"),
        ("p.csv", "question,question\n1,2\n", r"p\.csv:1: two columns are named 'question'"),
        ("p.csv", 'question,answer\n"a\nb",1\nc,2,3\n', r"p\.csv:4: not as many fields"),
        ("p.csv", "problem\nq\n", r"p\.csv:2: 'question' field required.*this one has problem"),
        ("p.tsv", "question\tid\nq\t1\nr\t1\n", r"p\.tsv:3: the id '1' is also in line 2"),
        ("p.jsonl", '{"question": "q", "answer": {"a": 1}}', r"p\.jsonl:1: 'answer' must be text, a number"),
    ],
)
def test_a_bad_file_is_named_as_the_user_wrote_it(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    for settings in (ProblemSettings(path=str(path)), ProblemSettings(path=str(path), seed=1)):
        with pytest.raises(DataError, match=message):
            ProblemFile.of(settings, tmp_path / "run")
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(DataError, match=message):
        ProblemFile.of(ProblemSettings(path=str(path)), tmp_path / "run")


def test_later_errors_name_the_source_too(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("question,answer\nq,1\nr,\n")
    problems = ProblemFile.of(ProblemSettings(path=str(path)), tmp_path / "run")
    with pytest.raises(DataError, match=r"^\S*/p\.csv:3: problem '2' has no 'answer'"):
        problems.held_out()
    with pytest.raises(DataError, match=r"^\S*/p\.csv: 2 problems, but problems\.sample asks for 3"):
        ProblemFile.of(ProblemSettings(path=str(path), sample=3), tmp_path / "run")


def test_a_packed_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(LINE.encode() * 100)[:-9])
    with pytest.raises(DataError, match=r"p\.jsonl\.gz:1: the packed file is cut off"):
        list(read_raw(path))


PAIR = {"question": "q", "prefix": ["a\n"], "first": "b", "second": "c", "winner": "first", "judgement": "[[A]]"}


@pytest.mark.parametrize(
    ("load", "row"),
    [
        (load_labelled_pairs, PAIR),
        (lambda path: load_eft(path, ["[[A]]"]), PAIR),
        (
            lambda path: [row for _, row in read_ift(path)],
            {"question": "q", "solution": "", "steps": ["a\n", "b"], "answer": 3},
        ),
        (lambda path: list(load_candidates(path).values()), {"question": "q", "candidates": ["a", "b"], "id": 7}),
    ],
)
def test_every_loader_reads_every_file(
    tmp_path: Path, load: Callable[[Path], list[object]], row: dict[str, object]
) -> None:
    from datasets import Dataset

    cells = {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}
    written = {name: tmp_path / f"p.{name}" for name in ("jsonl", "json", "csv", "parquet")}
    written["jsonl"].write_text("\ufeff" + json.dumps(row))
    written["json"].write_text(json.dumps([row], indent=1))
    Dataset.from_list([cells]).to_csv(written["csv"])
    Dataset.from_list([row]).to_parquet(written["parquet"])
    expected = load(written["jsonl"])
    assert len(expected) == 1
    assert all(load(path) == expected for path in written.values())
    written["jsonl"].write_text(json.dumps({**row, "question": "\ud83d"}))
    with pytest.raises(DataError, match=r"p\.jsonl:1: half a surrogate pair"):
        load(written["jsonl"])
