"""Random mutations of right replies, sent to real commands: none ends in a traceback, stands still or lies.

`pytest tests/servers/test_fuzz.py --mutations 1000 --mutation-seed 7` runs more of them, or other ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fuzzing import HASTEN, Case, cases, report
from imitation import Server, running
from row_commands import command_of, prepared, run_of
from rows import Run

Forker = Callable[[dict[str, Any]], list[int | None]]
pytestmark = pytest.mark.slow

_BATCH = 120
_APART = 0.12  # seconds between two starts: so many commands start in a second
_PATIENCE = 60.0  # seconds after the last start: 40 minutes by the commands' clock


def test_no_mutation_of_a_reply_breaks_a_command(
    forker: Forker, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    count, seed = request.config.getoption("--mutations"), request.config.getoption("--mutation-seed")
    drawn, failures = cases(count, seed), []
    for start in range(0, count, _BATCH):
        failures += fuzzed(drawn[start : start + _BATCH], forker, tmp_path)
    assert not failures, report(failures, count)


def fuzzed(batch: list[Case], forker: Forker, folder: Path) -> list[str]:
    """Run the commands of some cases twice, the second time with servers that do all right. Returns the faults."""
    failures = []
    with ExitStack() as stack:
        servers = [stack.enter_context(running(case.row.servers()[0])) for case in batch]
        for heals in (False, True):
            for case, run in zip(batch, runs(batch, servers, forker, folder=folder), strict=True):
                try:
                    (case.examine_healed if heals else case.examine)(run)
                except (AssertionError, ValueError) as error:
                    failures.append(f"{case.words}{', healed' * heals}: {str(error)[:2000]}")
            for server in servers:
                server.heal()
    return failures


def runs(batch: list[Case], servers: list[Server], forker: Forker, *, folder: Path) -> Iterator[Run]:
    """Run the commands of some cases at once and return each run."""
    commands = []
    for place, (case, server) in enumerate(zip(batch, servers, strict=True)):
        home = folder / str(case.number)
        home.mkdir(exist_ok=True)
        arguments = prepared(case.row, [server], home)
        commands.append(command_of(case.row, arguments, home, number=0, delay=place * _APART))
    codes = forker({"commands": commands, "hasten": HASTEN, "patience": _PATIENCE + len(batch) * _APART})
    for case, server, command, code in zip(batch, servers, commands, codes, strict=True):
        yield run_of(command, code, folder / str(case.number) / "out", [server])
