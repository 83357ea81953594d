"""Every row of the table: a real command against a server that behaves as the row says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from imitation import running
from known_faults import KNOWN_FAULTS
from rows import Row, Run, check_calm
from rows_abilities import ABILITIES
from rows_budget import BUDGETS
from rows_data import DATA
from rows_failures import FAILURES
from rows_forms import FORMS
from rows_fuzz import FUZZED
from rows_rates import RATES
from rows_thinking import THINKING
from rows_verdicts import VERDICTS
from rows_words import WORDS

Start = Callable[..., list[Run]]
pytestmark = pytest.mark.slow

TABLE: list[Row] = [*RATES, *FAILURES, *DATA, *ABILITIES, *FORMS, *THINKING, *WORDS, *BUDGETS, *VERDICTS, *FUZZED]


def marked(row: Row) -> object:
    """Return the row as a parameter: one with a known fault may fail. Times are part of many rows, so that such a row
    may also hold on a fast machine."""
    known_fault = KNOWN_FAULTS.get(row.name)
    fault = pytest.mark.xfail(strict=False, raises=AssertionError, reason=known_fault or "")
    return pytest.param(row, id=f"{row.kind} {row.name}", marks=[fault] if known_fault else [])


@pytest.mark.parametrize("row", [marked(row) for row in TABLE])
def test_a_server_that_people_use(row: Row, start: Start, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    try:
        examine(row, start, request, tmp_path)
    except AssertionError:
        # Clocks run up to 40 times as fast here: a machine that stops for a moment may cost a row its outcome, once.
        if row.name in KNOWN_FAULTS:
            raise
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(tmp_path / "searched", ignore_errors=True)
        examine(row, start, request, tmp_path)


def examine(row: Row, start: Start, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Run the row's command against its servers, once or twice, and check what came of it."""
    with ExitStack() as stack:
        servers = row.servers()
        for server in servers:
            server.certificate = request.getfixturevalue("certificate") if row.certified else None
            stack.enter_context(running(server))
        if row.command == "judge trees":
            search_first(row, start, stack, tmp_path)
        if row.prepare:
            (tmp_path / "out").mkdir()
            row.prepare(tmp_path / "out")
        run = start(row, servers)[0]
        row.examine(run)
        if row.again is None:
            return
        for server in servers:
            server.heal()
        second = start(row, servers)[0]
        check_calm(second)
        assert second.code == 0, second.words[-1500:]
        is_done = "already done" in second.stdout
        assert is_done == (row.again == "done"), second.words[-1500:]
        if row.command == "search":
            assert len(second.trees()) == row.items, [tree["error"] for tree in second.rows("trees")]
        elif row.command == "judge":
            assert second.verdicts() == ["0"] * row.items


def search_first(row: Row, start: Start, stack: ExitStack, folder: Path) -> None:
    """Search the row's problems with a server that does all right, into the folder `searched`."""
    plain_row = Row("searched", 2, items=row.items, settings={"search": row.settings.get("search", {})})
    server = stack.enter_context(running(plain_row.servers()[0]))
    assert start(plain_row, [server])[0].code == 0
    (folder / "out").rename(folder / "searched")


def test_the_table_is_whole() -> None:
    assert {row.kind for row in TABLE} == set(range(1, 10)), "kind 10 has tests of its own"
    assert len({row.name for row in TABLE}) == len(TABLE) >= 70
    assert {name for name in KNOWN_FAULTS if not name.startswith("two of ")} <= {row.name for row in TABLE}
