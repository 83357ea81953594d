"""Kind 10: two commands in one folder, and a folder that a killed command leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import slow
from imitation import running
from known_faults import KNOWN_FAULTS
from rows import Command, Row, Run, check_calm

Start = Callable[..., list[Run]]
pytestmark = pytest.mark.slow

_COMMANDS: list[Command] = ["search", "judge", "measure"]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=KNOWN_FAULTS[name]))
        if (name := f"two of {command}") in KNOWN_FAULTS
        else command
        for command in _COMMANDS
    ],
)
def test_the_second_command_in_a_folder_is_refused(command: Command, start: Start) -> None:
    row = Row("two commands", 10, slow(1), command=command, items=20)
    with running(row.servers()[0]) as server:
        first, second = start(row, [server], count=2)
    check_calm(first)
    check_calm(second)
    assert (first.code, second.code) == (0, 2), second.words[-1500:]
    assert f"another stepagent works in {second.out}" in second.stderr
    asked = Counter(str(sorted(request.body.items())) for request in server.asked() if request.item is not None)
    assert set(asked.values()) == {1}, "a request was paid twice"
    if command == "search":
        assert len(first.rows("trees")) == row.items
        assert len({tree["problem"]["id"] for tree in first.trees()}) == row.items


def test_two_commands_in_two_folders_do_not_meet(start: Start, tmp_path: Path) -> None:
    row = Row("one command", 10, items=2)
    with running(row.servers()[0]) as server:
        assert start(row, [server])[0].code == 0
        (tmp_path / "out").rename(tmp_path / "moved")
        assert start(row, [server])[0].code == 0


def test_a_killed_command_leaves_a_folder_that_the_next_one_goes_on_in(start: Start) -> None:
    row = Row("killed", 10, slow(1), items=20)
    with running(row.servers()[0]) as server:
        assert start(row, [server], patience=0.9)[0].code is None
        paid = len(server.asked())
        assert paid > 8
        run = start(row, [server])[0]
        check_calm(run)
        assert run.code == 0, run.words[-1500:]
        assert len(run.rows("trees")) == len(run.trees()) == row.items
        asked = Counter(str(sorted(request.body.items())) for request in server.asked() if request.item is not None)
    twice = sum(count - 1 for count in asked.values())
    assert twice <= 8, f"{twice} requests were paid twice; only those in flight may be"
