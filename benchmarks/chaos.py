"""Run the whole circle, M_0 -> M_1 -> M_2, under seeded schedules of faults.

    python benchmarks/chaos.py --schedules 50 --seed 1

A schedule is a few starts of one command, each with a fault: kill -9 at any moment or at the renaming of any file, torn
last lines and torn weights, a full disk, a server that dies, comes back or serves other weights, a judge that drops
connections, a clock that jumps, two commands at once. Each start must end well, or with one sentence, or by the kill.
A last start without faults must finish the run, with the same preferences and the same models as a run without faults.
Prints a row for each start, and exits with 1 if a schedule fails.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from _bench import make_parser, write_figures
from chaos_faults import Scene, calm, draw
from chaos_world import BASE, Command, Harm, results, say, warm_up, write_world
from tiny_server import TinyServer

from stepagent.testing.stub_server import Stub, serve

_LONGEST = 120.0  # seconds after which a command counts as one that stands still
_WORKERS = 2
_ENDS = {0, 2, 128 + signal.SIGTERM, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}


@dataclass
class Outcome:
    """A schedule's outcome: a line for each start, and the fault that stepagent has, if one was found."""

    schedule: int
    starts: list[str] = field(default_factory=list)
    failure: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Calm:
    """A run without faults: its results, its seconds, and how often a file got its name."""

    results: Mapping[str, str]
    seconds: float
    renames: int


class World:
    """Servers, and runs of the command on them in `folder`."""

    def __init__(self, folder: Path, policy: TinyServer, judge: Stub, *, url: str) -> None:
        self._folder, self._policy, self._judge, self._url = folder, policy, judge, url

    def calm(self) -> Calm:
        """Run the command without faults. Raises RuntimeError if it fails."""
        folder = self._make("calm")
        command = self._start("calm", Harm())
        if command.code != 0:
            raise RuntimeError(f"the run without faults ended with {command.code}: {command.errors}")
        return Calm(results(folder), command.seconds, int((folder / "alone.renames").read_text()))

    def _make(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        write_world(folder, self._policy.url, self._url)
        return folder

    def _start(self, name: str, harm: Harm) -> Command:
        command = Command(self._folder / name, "alone", harm)
        command.start()
        command.wait(_LONGEST)
        return command

    def endure(self, number: int, seed: int, calm_run: Calm) -> Outcome:
        """Run one schedule. Returns its outcome; the folder of one that failed is kept."""
        begin, outcome = time.monotonic(), Outcome(number)
        folder = self._make(str(number))
        rng = random.Random(f"{seed} {number}")
        self._policy.die()
        self._policy.be_born()
        scene = Scene(folder, self._policy, self._judge, rng=rng, renames=calm_run.renames, seconds=calm_run.seconds)
        try:
            for start in range(rng.randint(1, 4)):
                with calm(scene):
                    outcome.starts.append(_start_with_fault(scene, f"start-{start}"))
            self._finish(folder, outcome, calm_run.results)
            shutil.rmtree(folder)
        except AssertionError as error:
            outcome.failure = f"{error} (see {folder})"
        outcome.seconds = time.monotonic() - begin
        return outcome

    def _finish(self, folder: Path, outcome: Outcome, expected: Mapping[str, str]) -> None:
        """Start the command without faults, and compare its results with those that are expected."""
        command = self._start(folder.name, Harm())
        assert command.code == 0, f"the last start ended with {command.code}: {command.errors[-1500:]}"
        assert "Traceback" not in command.errors, command.errors[-1500:]
        differing = differences(results(folder), expected)
        assert not differing, f"other results: {differing}"
        outcome.starts.append("no fault: 0")


def _start_with_fault(scene: Scene, name: str) -> str:
    """Start the command, hurt it, wait for its end and return what happened."""
    fault = draw(scene)
    command = Command(scene.folder, name, fault.harm)
    command.start()
    try:
        words = fault.name + fault.during(scene, command)
        if not command.wait(_LONGEST):
            raise AssertionError(f"{words}: stood still: {command.errors[-1500:]}")
    finally:
        command.send(signal.SIGKILL)
        command.wait(10)
    words += fault.after(scene)
    check_end(command, words)
    return f"{words}: {command.code}"


def check_end(command: Command, words: str) -> None:
    """Raise AssertionError unless a command ended well, by a signal, or with one sentence."""
    errors = command.errors
    assert "Traceback" not in errors, f"{words}: a traceback: {errors[-3000:]}"
    assert command.code in _ENDS, f"{words}: ended with {command.code}: {errors[-1500:]}"
    sentences = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(sentences) == (command.code == 2), f"{words}: {len(sentences)} sentences: {errors[-1500:]}"


def differences(results_now: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Return the names whose results are missing, too many or other ones."""
    return sorted(name for name in results_now.keys() | expected.keys() if results_now.get(name) != expected.get(name))


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Give a world of its own servers."""
    policy, judge = TinyServer(BASE), Stub(say, tokenises=False, model="judge")
    try:
        with serve(judge) as url:
            yield World(folder, policy, judge, url=url)
    finally:
        policy.close()


def run_schedules(schedules: int, seed: int, folder: Path) -> list[Outcome]:
    """Run this number of schedules in `folder`, two at a time. Returns their outcomes."""
    warm_up()
    torch.set_num_threads(1)
    with world(folder) as first:
        calm_run = first.calm()

    def run(worker: int) -> list[Outcome]:
        outcomes = []
        with world(folder) as servers:
            for number in range(worker, schedules, _WORKERS):
                outcomes.append(servers.endure(number, seed, calm_run))
                _show(outcomes[-1])
        return outcomes

    with ThreadPoolExecutor(_WORKERS) as pool:
        return sorted(chain.from_iterable(pool.map(run, range(_WORKERS))), key=lambda outcome: outcome.schedule)


def _show(outcome: Outcome) -> None:
    head = f"{outcome.schedule:>3} {'FAILED' if outcome.failure else 'ok':<7} {outcome.seconds:5.1f} s  "
    lines = "\n                   ".join(outcome.starts)
    print(f"{head}{lines}{outcome.failure and chr(10)}{outcome.failure}", flush=True)


def main() -> None:
    arguments = make_parser(__doc__, seed=0, schedules=50).parse_args()
    outcomes = run_schedules(arguments.schedules, arguments.seed, Path(tempfile.mkdtemp(prefix="chaos-")))
    failures = [outcome for outcome in outcomes if outcome.failure]
    print(f"{len(outcomes) - len(failures)} of {len(outcomes)} schedules ended as without faults")
    write_figures(arguments.json, [vars(outcome) for outcome in outcomes])
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
