"""Run `stepagent` commands in children of one warm process: a fork takes milliseconds, a start takes a second.

A line of standard input is a job: {"commands": [{"arguments", "env", "err", "out", "delay"}, ...], "hasten",
"patience"}. Its commands run at once; the line that answers holds their exit codes, null for one that had to be killed
after `patience` seconds. `hasten` is the number of seconds that a second of theirs holds: their clock and sleeps run
faster, so that a minute's outage takes a test a moment.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from typing import Any

_monotonic, _unix, _sleep = time.monotonic, time.time, time.sleep
_wait = selectors.DefaultSelector.select
_look_up = socket.getaddrinfo
_pace = 1.0
_start = (_monotonic(), _unix())


def _fast_monotonic() -> float:
    return _start[0] + (_monotonic() - _start[0]) * _pace


def _fast_unix() -> float:
    return _start[1] + (_unix() - _start[1]) * _pace


def _fast_sleep(seconds: float) -> None:
    _sleep(seconds / _pace)


def _fast_wait(self: Any, timeout: float | None = None) -> Any:
    return _wait(self, timeout / _pace if timeout and timeout > 0 else timeout)


def _local_look_up(host: Any, *arguments: Any, **options: Any) -> Any:
    """Look a name up without asking the network for those that no network has."""
    if str(host).rstrip(".").endswith(".invalid"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _look_up(host, *arguments, **options)


def _hasten() -> None:
    """Put the clock in place, before any module takes a copy of it."""
    time.monotonic, time.time = _fast_monotonic, _fast_unix
    time.sleep = _fast_sleep  # type: ignore[assignment]
    selectors.DefaultSelector.select = _fast_wait  # type: ignore[method-assign]
    socket.getaddrinfo = _local_look_up


def _import_all() -> None:
    import openai.resources.models

    openai.DefaultAioHttpClient()  # imports its transport


def _command(job: dict[str, Any], command: dict[str, Any]) -> int:
    """Run one command in this process and return its exit code; an error nobody caught is 1 with a traceback."""
    global _pace, _start
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(command["env"])
    _sleep(command["delay"])
    _start, _pace = (_monotonic(), _unix()), job["hasten"]
    sys.argv = ["stepagent", *command["arguments"]]
    from stepagent.commands import main

    code: object = 0
    try:
        main.run()
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # noqa: BLE001 (a row fails on the traceback)
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0 if code is None else 1


def _run(job: dict[str, Any]) -> list[int | None]:
    """Run the commands of a job at once and return their exit codes."""
    names = {command["arguments"][0] for command in job["commands"]}
    if names & {"serve", "iterate"}:
        import stepagent.stages.deploy  # loads Transformers, which few rows need
    if "iterate" in names:
        import stepagent.backends.transformers
        import stepagent.stages.iterate  # noqa: F401
    children: dict[int, int] = {}
    for number, command in enumerate(job["commands"]):
        if (pid := os.fork()) == 0:
            os.setsid()
            os._exit(_command(job, command))
        children[pid] = number
    codes: list[int | None] = [None] * len(children)
    deadline = _monotonic() + job["patience"]
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in children:
            number = children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            codes[number] = None if code == -signal.SIGKILL else code
        elif _monotonic() > deadline:
            for child in children:
                os.kill(child, signal.SIGKILL)
        _sleep(0.005)
    return codes


def main() -> None:
    _hasten()
    _import_all()
    gc.freeze()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
