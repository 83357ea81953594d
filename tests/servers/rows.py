"""A row of the table: how a server behaves, the command that meets it, and the outcome that its user expects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imitation import Request, Server, Twist, plain
from protocols import Protocol, hosted

Command = Literal["search", "judge", "measure", "judge trees", "serve", "iterate"]
Again = Literal["done", "goes on"]


@dataclass
class Run:
    """A command that has ended: its exit code (None: it had to be killed), its words, its files, and its servers."""

    code: int | None
    stdout: str
    stderr: str
    out: Path
    servers: Sequence[Server]

    @property
    def server(self) -> Server:
        """The first server, or the only one."""
        return self.servers[0]

    @property
    def words(self) -> str:
        """Everything that it printed."""
        return self.stdout + self.stderr

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of one of its JSONL files; none if there is no such file."""
        path = self.out / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def trees(self, status: str = "ended") -> list[dict[str, Any]]:
        """Return its trees that have a status."""
        return [tree for tree in self.rows("trees") if tree["status"] == status]

    def steps(self) -> list[str]:
        """Return the contents of all steps of its trees."""
        return [node["candidate"]["step"]["content"] for tree in self.rows("trees") for node in tree["nodes"]]

    def verdicts(self) -> list[str]:
        """Return the outcome of each row that it judged: the status, or the index of the best candidate."""
        verdicts = [row["verdict"] for row in self.rows("verdicts")]
        return [str(verdict["best"]) if verdict["status"] == "ok" else verdict["status"] for verdict in verdicts]


Check = Callable[[Run], object]


@dataclass(frozen=True)
class Row:
    """One behaviour.

    kind           of issue 15, from 1 to 10
    twist          (request, right reply) -> the reply that is sent; several servers have one each
    settings       of the config beside those that every row has; {url} and {port} are the first server's, {last_url}
                   the last one's
    certified      over https, with a certificate that nobody has signed
    prepare        writes files into OUT before the command starts
    items          problems, rows or labelled pairs
    env            of the command
    hasten         seconds of the command's clock in a second
    patience       seconds (of the test's clock) after which the command counts as one that stands still
    code           the exit codes that are right
    says           patterns that standard error must hold; `hides` those that nothing may hold
    ended          trees that must have ended
    verdicts       outcomes of the rows that must have been judged, each the best candidate's index or a status
    again          a second start, with a server that does all right, says that all is done, or goes on and ends well
    check          raises AssertionError for a run that a user would not expect
    """

    name: str
    kind: int
    twist: Twist | Sequence[Twist] = plain
    command: Command = "search"
    settings: Mapping[str, Any] = field(default_factory=dict)
    protocol: Callable[[], Protocol] = hosted
    base: str = "/v1"
    absence: tuple[float, float] | None = None
    certified: bool = False
    prepare: Callable[[Path], object] | None = None
    items: int = 3
    env: Mapping[str, str] = field(default_factory=dict)
    hasten: float = 20
    patience: float = 6
    code: int | tuple[int, ...] = 0
    says: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    ended: int | None = None
    verdicts: tuple[str, ...] | None = None
    again: Again | None = None
    check: Check | None = None

    def servers(self) -> list[Server]:
        """Return the servers, not running yet."""
        twists = [self.twist] if callable(self.twist) else self.twist
        return [Server(twist, self.protocol, self.base, self.absence, self.hasten) for twist in twists]

    def examine(self, run: Run) -> None:
        """Raise AssertionError if a run is not as the row says."""
        codes = self.code if isinstance(self.code, tuple) else (self.code,)
        check_calm(run)
        assert run.code in codes, f"exit code {run.code}: {run.words[-1500:]}"
        for pattern in self.says:
            assert re.search(pattern, run.stderr), f"no {pattern!r} in: {run.stderr[-1500:]}"
        for pattern in self.hides:
            assert not re.search(pattern, run.words), f"{pattern!r} in: {run.words[-1500:]}"
        if self.ended is not None:
            trees = [(tree["status"], tree["error"]) for tree in run.rows("trees")]
            assert len(run.trees()) == self.ended, trees
        if self.verdicts is not None:
            assert sorted(run.verdicts()) == sorted(self.verdicts), run.rows("verdicts")
        if self.check is not None:
            self.check(run)


def check_calm(run: Run) -> None:
    """Raise AssertionError for a run that stood still, or ended in a traceback."""
    assert "Traceback (most recent call last)" not in run.words, f"a traceback: {run.words[-1500:]}"
    assert run.code is not None, f"stood still: {run.words[-1500:]}"
    assert "never retrieved" not in run.words, run.words[-1500:]


def on(which: Callable[[Request], object], twist: Twist) -> Twist:
    """Return a twist of those requests alone for which `which` holds."""
    return lambda request, reply: twist(request, reply) if which(request) else reply


def solving(request: Request) -> bool:
    return request.solves


def judging(request: Request) -> bool:
    return request.judges


def sampling(request: Request) -> bool:
    return request.samples
