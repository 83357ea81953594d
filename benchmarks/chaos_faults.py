"""The faults of a chaos schedule: harm to a command, its files, its servers and its company, drawn by a seed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from chaos_world import BASE, RUN, Command, Harm
from tiny_server import TinyServer

from stepagent.testing.stub_server import Stub, drop

_TRAINING = ("M_{}.work/checkpoint-*", "M_{}.part", "M_{}/config.json")
_SEARCH = ("responses.sqlite", "round_1/trees.jsonl", "round_1/preferences.jsonl")
_MOMENTS = [name.format(1) for name in _TRAINING] + [*_SEARCH] + [name.format(2) for name in _TRAINING]
"""Files in the order in which they appear in a run."""


@dataclass
class Scene:
    """The things that a fault can reach: a run's folder, a command that runs in it, the servers, and the random numbers
    of the schedule. `renames` and `seconds` are those of a run without faults."""

    folder: Path
    policy: TinyServer
    judge: Stub
    rng: random.Random
    renames: int
    seconds: float

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / RUN


@dataclass(frozen=True)
class Fault:
    """A fault: the harm that the command is started with, and the thing that happens while it runs, until which it
    waits; `after` happens once it has ended."""

    name: str
    harm: Harm = field(default_factory=Harm)
    during: Callable[[Scene, Command], str] = lambda scene, command: ""
    after: Callable[[Scene], str] = lambda scene: ""


def draw(scene: Scene) -> Fault:
    """Return a fault, by the random numbers of the schedule."""
    rng = scene.rng
    name = rng.choice(list(_KINDS))
    fault = _KINDS[name](scene)
    return replace(fault, name=f"{name}{fault.name}")


def _moment(scene: Scene, command: Command) -> str:
    """Wait for a random moment of the command: after its start, or after a file appears. Returns its words."""
    reached = max((i + 1 for i, pattern in enumerate(_MOMENTS) if list(scene.run.glob(pattern))), default=0)
    place = scene.rng.choice((None, *_MOMENTS[reached:]))
    delay = scene.rng.uniform(0, 0.3) if place else scene.rng.uniform(0, scene.seconds)
    deadline = command.seconds + 2 * scene.seconds
    while place and not list(scene.run.glob(place)) and not command.wait(0.005) and command.seconds < deadline:
        pass
    command.wait(delay)
    return f" {delay:.2f} s after {place or 'its start'}"


def _signalled(number: signal.Signals) -> Callable[[Scene], Fault]:
    def during(scene: Scene, command: Command) -> str:
        moment = _moment(scene, command)
        command.send(number)
        return moment

    return lambda scene: Fault("", during=during)


def _killed_at_a_rename(scene: Scene) -> Fault:
    harm = Harm(rename=scene.rng.randrange(scene.renames), before=scene.rng.random() < 0.5)
    return Fault(f" {'before' if harm.before else 'after'} rename {harm.rename}", harm)


def _full_disk(scene: Scene) -> Fault:
    def during(scene: Scene, command: Command) -> str:
        moment = _moment(scene, command)
        size = int(2 ** scene.rng.uniform(12, 18))  # the command's words are shorter, M_1 is longer
        command.fill_disk(size)
        return f"{moment}, {size} bytes"

    return Fault("", during=during)


def _clock(scene: Scene) -> Fault:
    return Fault("", Harm(jumps=scene.rng.choice((0.05, 0.5)), seed=scene.rng.randrange(1000)))


def _suspended(scene: Scene) -> Fault:
    def during(scene: Scene, command: Command) -> str:
        moment = _moment(scene, command)
        command.send(signal.SIGSTOP)
        time.sleep(scene.rng.uniform(0.2, 2))
        command.send(signal.SIGCONT)
        return moment

    return Fault("", during=during)


def _torn(pattern: str, shortest: int) -> Callable[[Scene], Fault]:
    """Return the fault that kills the command and then cuts a random file of a pattern within its last `shortest` bytes
    or its last line."""

    def after(scene: Scene) -> str:
        files = sorted(path for path in scene.run.rglob(pattern) if path.is_file() and path.stat().st_size)
        if not files:
            return ", nothing to cut"
        path = scene.rng.choice(files)
        content = path.read_bytes()
        line = len(content) - content.rstrip(b"\n").rfind(b"\n") - 1
        cut = scene.rng.randint(1, min(len(content), max(line, shortest)))
        with path.open("rb+") as file:
            file.truncate(len(content) - cut)
        return f", {path.relative_to(scene.run)} {cut} bytes shorter"

    def fault(scene: Scene) -> Fault:
        return replace(_signalled(signal.SIGKILL)(scene), after=after)

    return fault


def _policy_dies(scene: Scene) -> Fault:
    def during(scene: Scene, command: Command) -> str:
        moment = _moment(scene, command)
        scene.policy.die()
        seconds = scene.rng.choice((0.1, 0.5, 1.5, 8.0))
        command.wait(seconds)
        scene.policy.be_born()
        return f"{moment}, back after {seconds} s with M_0"

    return Fault("", during=during)


def _weights_change(scene: Scene) -> Fault:
    def after(scene: Scene) -> str:
        models = [BASE, *(path.parent for path in scene.run.glob("M_*/config.json"))]
        model = scene.rng.choice(models)
        scene.policy.swap(model)
        return f", serves {model.name} then"

    return replace(_signalled(signal.SIGKILL)(scene), after=after)


def _judge_drops(scene: Scene) -> Fault:
    def during(scene: Scene, command: Command) -> str:
        moment = _moment(scene, command)
        scene.judge.kinds, scene.judge.rate = (drop,), 1.0
        command.wait(scene.rng.uniform(0.1, 2))
        scene.judge.rate = 0.0
        return moment

    return Fault("", during=during)


def _two_at_once(scene: Scene) -> Fault:
    def during(scene: Scene, command: Command) -> str:
        moment = _moment(scene, command)
        second = Command(scene.folder, f"{command.name}-second")
        second.start()
        if not second.wait(60 + 10 * scene.seconds):
            second.send(signal.SIGKILL)
            raise AssertionError("the second command stood still")
        is_refused = second.code == 2 and "another stepagent works in" in second.errors
        if not is_refused and second.code != 0:
            raise AssertionError(f"the second command ended with {second.code}: {second.errors[-500:]}")
        return moment

    return Fault("", during=during)


_KINDS: dict[str, Callable[[Scene], Fault]] = {
    "kill -9": _signalled(signal.SIGKILL),
    "kill -9 at a rename": _killed_at_a_rename,
    "kill -9 once more": _killed_at_a_rename,
    "SIGTERM": _signalled(signal.SIGTERM),
    "SIGINT": _signalled(signal.SIGINT),
    "suspended": _suspended,
    "a full disk": _full_disk,
    "a full disk again": _full_disk,
    "the clock jumps": _clock,
    "a torn last line": _torn("*.jsonl", 1),
    "torn weights": _torn("*.safetensors", 4000),
    "the server dies": _policy_dies,
    "the server's weights change": _weights_change,
    "the judge drops": _judge_drops,
    "two commands": _two_at_once,
}


@contextmanager
def calm(scene: Scene) -> Iterator[None]:
    """Bring the servers back at the end."""
    try:
        yield
    finally:
        scene.policy.be_born()
        scene.judge.rate = 0.0
