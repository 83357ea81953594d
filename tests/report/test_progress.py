"""Progress in a log file: plain lines, also while nothing is finished."""

from __future__ import annotations

import time

import pytest

from stepagent import console


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
