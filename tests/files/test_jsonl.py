"""JSONL and whole files: rows come back, torn lines go, an interrupted write changes nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stepagent import (
    DataError,
    Problem,
    Verdict,
)
from stepagent.files.jsonl import drop_torn_line, iter_json, read_rows, write_atomic, write_rows


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [Problem("a", "1+1", "2", {"from": "x"}), Problem("b", "π\n\\frac{1}{2}")]
    write_rows(tmp_path / "r.jsonl", rows)
    assert read_rows(tmp_path / "r.jsonl", Problem) == rows


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


async def test_scores_that_are_missing_survive_the_files() -> None:
    from pydantic import TypeAdapter

    from stepagent.files.jsonl import dump_row

    verdict = Verdict("ok", (math.nan, 0.5, 1.0), 2, worst=1, margin=0.9)
    back = TypeAdapter(Verdict).validate_json(dump_row(verdict))
    assert math.isnan(back.scores[0])
    assert back.scores[1:] == (0.5, 1.0)
