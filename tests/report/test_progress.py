"""Progress: a board that fits the terminal, plain lines in a log file, one line a stage in a long command."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from stepagent import console
from stepagent.report.summary import print_summary


def test_a_long_wait_is_seen_in_a_log_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_ALIVE_SECONDS", 0.01)
    monkeypatch.setattr(console, "_LINE_SECONDS", 0.05)
    requests = 3
    with console.bar("search", 8, lambda: f"{requests} requests\x1b[2J"):
        deadline = time.monotonic() + 20
        lines: list[str] = []
        while len(lines) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
            requests += 1
            lines += [line for line in capsys.readouterr().err.splitlines() if line.startswith("search: 0 of 8")]
    assert len(lines) >= 2, "no tree is finished, and yet lines come"
    assert lines[0] != lines[1], "the figures move"
    assert "requests␛[2J" in lines[0]


def test_the_board_is_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, width=80, color_system=None))
    figures = "123,456 steps, 1,234,567 requests, 123,456,789 tokens, cost 1234.57"
    with console.bar("greedy solutions, M_10", 100_000, lambda: figures) as progress:
        progress.advance(12_345)
        time.sleep(0.6)  # the board is drawn twice a second
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").splitlines()
    board = [line for line in lines if "greedy solutions, M_10" in line and "━" in line]
    assert board
    assert all(re.search(r"12345/100000 (\S+/s)? *\S+ left", line) for line in board[-1:])
    assert max(map(len, lines)) <= 80
    assert any(figures in line for line in lines)
    assert not any("…" in line for line in lines)


def test_a_stage_leaves_one_line_where_the_command_closes_with_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"problems": 400, "  preference pairs": 611, "requests": 9}
    with console.closing_table_only():
        console.table("Search, round 1", rows, ("problems", "  preference pairs"))
        console.table("Something else", rows)
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.splitlines() == ["Search, round 1: problems 400, preference pairs 611", "Something else: done"]
    console.table("Search", rows, ("problems",))
    assert "requests" in capsys.readouterr().out


def test_a_slow_task_says_how_long_an_item_takes() -> None:
    assert console._rate(12.0) == "12.0/s"
    assert console._rate(0.1) == "10.0 s each"
    assert console._rate(0.0) == ""


def test_what_was_done_stays_as_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_QUICK_SECONDS", 0.0)
    with console.bar("search, round 1", 8) as progress:
        progress.advance(8, "24 steps")
    assert capsys.readouterr().err.splitlines()[-1] == "search, round 1: 8 of 8, 0 s, 24 steps"
    with console.closing_table_only(), console.bar("search, round 1", 8) as progress:
        progress.advance(8, "24 steps")
    assert capsys.readouterr().err.splitlines()[-1] == "search, round 1: 8 of 8, 0 s", (
        "its stage's line has the figures"
    )


def test_the_closing_table_is_whole_at_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a path stands whole in its line, however long it is
    Path("runs/demo").mkdir(parents=True)
    shares = ("greedy_accuracy", "search_accuracy", "judge_accuracy", "judge_consistency", "own_judge_accuracy")
    model = dict.fromkeys((*shares, "pairs_right"), 1.0) | {"preferences": 123456, "steps_per_solution": 11.3}
    models = [{"name": f"M_{index}", **model, "tokens_per_step": 123.4} for index in range(12)]
    screen = io.StringIO()
    print_summary({"models": models, "wall_seconds": 1e6}, Path("runs/demo"), Console(file=screen, width=80))
    text = screen.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("123456") == 12
