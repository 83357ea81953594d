"""The process of a `Guarded` grader, as a script: makes the class, then answers each line, a JSON list of a method and
its arguments, with {"value": ...} or {"error": the words}.

Once the class is made, the process may change files in its temporary folder alone, and take 4 GiB of memory beside
that which it had then.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import pickle
import signal
import sys
import tempfile
from typing import Any

_MEMORY = 4 << 30
_ORPHAN_SECONDS = 120  # after which a call ends whose caller was killed


def serve() -> None:
    """Answer the questions on standard input, a line each, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who then ends this process
    path, folder, made_of = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a grader that prints must not be taken for a reply
    sys.path += [place for place in json.loads(path) if place not in sys.path]
    sys.dont_write_bytecode = True
    tempfile.tempdir = folder
    try:
        grader = _made(made_of)
    except BaseException as error:  # noqa: BLE001 (the caller shows whatever a constructor raises)
        print(json.dumps(_words(error)), file=replies, flush=True)
        return
    from stepagent.graders.sandbox import confine, limit

    limit(_MEMORY, _MEMORY)
    confine(folder, refuse_processes=False)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            signal.alarm(_ORPHAN_SECONDS)
        print(_reply(grader, line), file=replies, flush=True)
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def _made(made_of: str) -> Any:
    target, arguments = pickle.loads(base64.b64decode(made_of))
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments)


def _reply(grader: Any, line: str) -> str:
    from stepagent.graders.marking import MATH
    from stepagent.interfaces import AnswerReader
    from stepagent.types import Problem

    method, *arguments = json.loads(line)
    try:
        if method == "grade":
            problem, solution = arguments
            value = grader.grade(Problem(**problem), solution)
            value = bool(value) if value in (True, False) else value
        else:
            value = getattr(grader if isinstance(grader, AnswerReader) else MATH, method)(*arguments)
        return json.dumps({"value": value})
    except BaseException as error:  # noqa: BLE001 (a grader may raise anything, SystemExit too)
        return json.dumps({"error": f"raised {_words(error)}"})


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")[:500]


if __name__ == "__main__":
    serve()
