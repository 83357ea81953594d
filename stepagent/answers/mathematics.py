"""Comparison of two LaTeX expressions by sympy, in a process that is killed when it is too slow or too large."""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path

from stepagent.workers import Worker, WorkerError

_SECONDS = 5.0
_START_SECONDS = 120.0  # for the import of sympy, before the clock of the first comparison runs


def same_mathematics(first: str, second: str) -> bool:
    """Return whether two LaTeX expressions have the same value; False for those that cannot be compared in time.

    May be called from several threads: one comparison runs at a time.
    """
    question = json.dumps([first, second]).encode() + b"\n"
    try:
        return _WORKER.ask(question, _SECONDS) == b"true\n"
    except WorkerError:
        raise RuntimeError("the process that compares formulas does not start; is sympy installed?") from None
    except (TimeoutError, EOFError):
        _WORKER.start()  # loads sympy while the caller goes on
        return False


_WORKER = Worker(Path(__file__).with_name("sympy_process.py"), start_seconds=_START_SECONDS)
atexit.register(_WORKER.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WORKER.forget)
