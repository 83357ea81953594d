"""A small circle for the chaos, M_0 -> M_1 -> M_2 on a tiny server and with a stub as judge; its command, and its harm.

Commands run in children of a warm process of their own: a start takes milliseconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import yaml

import stepagent.demo
from stepagent.files.runs import hash_file
from stepagent.serve.folders import weights_sha256

BASE = Path(stepagent.demo.__file__).parent / "base"
RUN = "run"
_CONTEXT = multiprocessing.get_context("forkserver")
_WARM = ["stepagent.commands.main", "stepagent.stages.iterate", "stepagent.backends.openai", "stepagent.training.dpo"]
_WARM += [
    "stepagent.training.sft",
    "stepagent.judges.pairwise",
    "stepagent.generators.sample",
    "stepagent.strategies.step",
]
_WARM += ["stepagent.stages.check_model", "peft"]
_RENAMES = ("replace", "rename")


def warm_up() -> None:
    """Let all commands start from a process that has loaded what they need."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"}
    os.environ["OPENAI_API_KEY"] = "sk-chaos"
    _CONTEXT.set_forkserver_preload(_WARM)


def say(context: str, seed: int) -> str:
    """Return a judge's verdict: the larger text of two is the better one."""
    question = context.removesuffix("<assistant>").rpartition("<user>")[2]
    first, second = (question.rpartition(mark)[2].partition("\n")[0] for mark in ("|A ", "|B "))
    return "[[C]]" if first == second else "[[A]]" if first > second else "[[B]]"


def write_world(folder: Path, policy: str, judge: str) -> Path:
    """Write the problems, the solutions that M_1 learns from and the config of a run. Returns the config."""
    rng = random.Random(0)
    sums = [(rng.randrange(10, 50), rng.randrange(10, 50)) for _ in range(64)]
    problems = [{"id": str(i), "question": f"{a}+{b}"} for i, (a, b) in enumerate(sums[:10])]
    solved = [{"question": f"{a}+{b}", "steps": [f"{a}+{b}={a + b}\n", f"={a + b}"]} for a, b in sums[10:]]
    for name, rows in (("problems", problems), ("ift", solved)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"epochs": 2, "batch_size": 8, "token_budget": 512, "save_steps": 2}
    config = {
        "name": RUN,
        "model": str(BASE),
        "rounds": 1,
        "watch": {"problems": 0},
        "concurrency": 4,
        "problems": str(folder / "problems.jsonl"),
        "backend": {"kind": "openai", "base_url": policy, "model": "policy"},
        "generator": {"prompt": "demo_solve", "boundary": "line", "temperature": 1.0, "max_tokens": 12},
        "judge": {
            "prompt": "demo_judge",
            "max_tokens": 64,
            "backend": {"kind": "openai", "base_url": judge, "model": "judge"},
        },
        "search": {"width": 3, "max_iterations": 4},
        "serve": {"start_seconds": 4},
        "init": {"ift": str(folder / "ift.jsonl"), "lora": None, "learning_rate": 1e-3, **training},
        "optimize": {"lora": {"rank": 4, "alpha": 8}, "learning_rate": 1e-2, **training},
    }
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass(frozen=True)
class Harm:
    """Harm that a command takes from within: `rename`, the number of the file that gets its name when it is killed, and
    whether `before` that; `jumps`, the seconds between two jumps of the time of day; `seed` of the jumps."""

    rename: int | None = None
    before: bool = False
    jumps: float | None = None
    seed: int = 0


@dataclass
class Command:
    """A running `stepagent iterate`, whose standard error goes to `folder`/NAME.err."""

    folder: Path
    name: str
    harm: Harm = field(default_factory=Harm)

    def start(self) -> None:
        """Start it."""
        self.begin = time.monotonic()
        self.process: ForkServerProcess = _CONTEXT.Process(target=_command, args=(self.folder, self.name, self.harm))
        self.process.start()

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.begin

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def fill_disk(self, size: int) -> None:
        """Let no file of its grow beyond `size` bytes."""
        if self.process.pid is not None and self.process.is_alive():
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def wait(self, seconds: float) -> bool:
        """Wait for its end. Returns whether it has ended."""
        self.process.join(seconds)
        return self.process.exitcode is not None

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal."""
        return self.process.exitcode

    @property
    def errors(self) -> str:
        """Its standard error."""
        path = self.folder / f"{self.name}.err"
        return path.read_text(errors="replace") if path.exists() else ""


def _command(folder: Path, name: str, harm: Harm) -> None:
    """Run the command in this process, a child of the warm one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a command in the background inherits that it is ignored
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(folder / f"{name}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    renames = _watch_renames(harm)
    if harm.jumps is not None:
        _jump(harm.jumps, random.Random(harm.seed))
    sys.argv = ["stepagent", "iterate", str(folder / "c.yaml"), "--runs", str(folder)]
    from stepagent.commands.main import run

    try:
        run()
    finally:
        (folder / f"{name}.renames").write_text(str(len(renames)))


def _watch_renames(harm: Harm) -> list[None]:
    """Return a list that grows with each file that gets its name, and end this process with -9 where `harm` says."""
    renames: list[None] = []

    def wrapped(rename: Any) -> Any:
        def renamed(*arguments: Any, **options: Any) -> None:
            is_last = len(renames) == harm.rename
            renames.append(None)
            if not (is_last and harm.before):
                rename(*arguments, **options)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)

        return renamed

    for name in _RENAMES:
        setattr(os, name, wrapped(getattr(os, name)))
    return renames


def _jump(period: float, rng: random.Random) -> None:
    """Let the time of day jump by up to a day, back and forth."""
    true, offsets = time.time, {0: 0.0}
    start = true()

    def jumping() -> float:
        number = int((true() - start) / period)
        offset = offsets.setdefault(number, rng.uniform(-86400, 86400) if number else 0.0)
        return true() + offset

    time.time = jumping


def results(folder: Path) -> Mapping[str, str]:
    """Return the hashes of all that a run is for: its preferences, and the weights of its models."""
    run = folder / RUN
    rows = {f"{path.parent.name}/{path.name}": hash_file(path) for path in run.glob("round_*/preferences.jsonl")}
    return rows | {path.name: weights_sha256(path) for path in run.glob("M_[0-9]") if (path / "config.json").is_file()}
