"""One value, one text: whatever way a file is read."""

from __future__ import annotations

import csv
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepagent.config.settings import ProblemSettings
from stepagent.files.jsonl import dump_any, write_json
from stepagent.files.problems import ProblemFile
from stepagent.files.values import cell_text, numeral


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (math.nan, None),
        ("", None),
        ("  ", None),
        ("NaN", None),
        ("null", None),
        ([], None),
        ([None, ""], None),
        (True, "true"),
        ("True", "true"),
        ("FALSE", "false"),
        (18, "18"),
        (18.0, "18.0"),
        (numeral("1e3"), "1e3"),
        (numeral("0.10"), "0.10"),
        (numeral("0.1"), "0.1"),
        (" 18 ", "18"),
        (["18"], "18"),
        ("['18']", "18"),
        ('["18"]', "18"),
        (["2", "3"], "2, 3"),
        ('["2", "3"]', "2, 3"),
        ([2, 3.5, True], "2, 3.5, true"),
        ("[2, 3]", "[2, 3]"),
        ("['2' '3']", "['2' '3']"),
        ("$x$ and $y$", "$x$ and $y$"),
        ("None", "None"),
    ],
)
def test_cells_as_text(value: object, text: str | None) -> None:
    assert cell_text(value) == text
    assert text is None or cell_text(text) == text, "a converted file reads the same again"


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
FLOATS = st.floats(allow_infinity=False)
CELLS = {
    "text": st.none() | TEXTS,
    "number": st.none() | FLOATS,
    "whole": st.none() | st.integers(-(2**62), 2**62),
    "truth": st.none() | st.booleans(),
    "list": st.none() | st.lists(TEXTS.filter(str.strip), min_size=1, max_size=3),
}
QUESTIONS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda text: cell_text(text) is not None
)


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows whose answers are all of one type, as a column of Parquet needs."""
    cells = CELLS[draw(st.sampled_from(sorted(CELLS)))]
    rows = draw(st.lists(st.tuples(QUESTIONS, cells), min_size=1, max_size=6))
    return [{"question": question, "answer": answer, "id": f"p{i}"} for i, (question, answer) in enumerate(rows)]


@settings(max_examples=60, deadline=None)
@given(tables())
def test_jsonl_csv_and_parquet_of_the_same_rows_read_the_same(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "p.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
        for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
            with (folder / f"p.{suffix}").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["question", "answer", "id"], delimiter=delimiter)
                writer.writeheader()
                writer.writerows(rows)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "p.parquet")
        read = {
            path.suffix: list(ProblemFile.of(ProblemSettings(path=str(path)), folder / "run").with_answers())
            for path in sorted(folder.glob("p.*"))
        }
        assert len(read) == 5
        assert all(problems == read[".jsonl"] for problems in read.values()), read
        assert [problem.question for problem in read[".jsonl"]] == [row["question"] for row in rows]


def _refuse(constant: str) -> None:
    raise AssertionError(constant)


def test_what_json_cannot_hold_is_null(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_json(path, {"a": math.nan, "b": [math.inf, 1.5, {"c": -math.inf}], "d": "−", 3: Path("x"), "e": "\ud83d"})
    data = json.loads(path.read_text(), parse_constant=_refuse)
    assert data == {"a": None, "b": [None, 1.5, {"c": None}], "d": "−", "3": "x", "e": "\ud83d"}
    assert json.loads(dump_any({"a": math.nan, "b": {1, 2}}), parse_constant=_refuse)["a"] is None
