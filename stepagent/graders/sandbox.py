"""Limits that a process puts on itself: memory, processor time, and an audit hook that refuses to write elsewhere, to
open sockets and to start processes. The hook stops code that is careless, not code that is out to break it: it is
Python, and native code passes it by. Imports nothing of the package, since a process without it uses this file, too.

As a script it runs the tests of `PythonTestsGrader`: it reads {token, solution, tests} as JSON, and writes the token
once the tests have passed.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any

_CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.link": ((0, 2), (1, 3)),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
}
"""Events that change files: for each path, its place among the event's arguments, and that of its directory."""
_REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "os.startfile")
_FILE_SIZE = 16 << 20  # bytes of a file that a solution writes
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def limit(memory: int, file_size: int, *, seconds: int | None = None) -> None:
    """Bound the process from now on: `memory` bytes beside those it has, files of `file_size` bytes, `seconds` of
    processor time. Does nothing where the system has no such limits."""
    with suppress(ImportError):
        import resource

        bounds = {resource.RLIMIT_AS: _size() + memory, resource.RLIMIT_FSIZE: file_size, resource.RLIMIT_CORE: 0}
        if seconds is not None:
            bounds[resource.RLIMIT_CPU] = seconds
        for kind, bound in bounds.items():
            hard = resource.getrlimit(kind)[1]
            lowest = bound if hard == resource.RLIM_INFINITY else min(hard, bound)
            with suppress(ValueError, OSError):
                resource.setrlimit(kind, (lowest, lowest))


def _size() -> int:
    """Return the bytes of the process's address space; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def confine(folder: str, *, refuse_processes: bool) -> None:
    """Refuse from now on to change files outside `folder`; with `refuse_processes` also sockets, processes, signals.
    A refusal is a PermissionError."""
    root = os.path.realpath(folder) + os.sep
    realpath, fsdecode, prefixes = os.path.realpath, os.fsdecode, _REFUSED if refuse_processes else ()

    def check(path: Any, directory: Any) -> None:
        if isinstance(path, int):
            return  # it is open already
        name = fsdecode(path)
        base = f"/proc/self/fd/{directory}/" if directory not in (-1, None) else ""
        if name != os.devnull and not (realpath(base + name) + os.sep).startswith(root):
            raise PermissionError(f"it may not write to {name}, only in its temporary folder")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if (flags or 0) & _WRITING or (isinstance(mode, str) and set(mode) & set("wax+")):
                check(path, None)
        elif event in _CHANGES:
            for place, directory in _CHANGES[event]:
                check(arguments[place], None if directory is None else arguments[directory])
        elif prefixes and event.startswith(prefixes):
            raise PermissionError(f"it may not use {event}")

    sys.addaudithook(hook)


def _run_tests() -> None:
    """Run the tests of the task on standard input; see above. "tests: ..." instead of the token says that they cannot
    be run at all."""
    task = json.loads(sys.stdin.buffer.read())
    write, token = os.write, task["token"].encode()
    replies, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sys.dont_write_bytecode = True
    try:
        tests = compile(task["tests"], "tests", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        write(replies, f"tests: {type(error).__name__}: {error}".encode())
        return
    write(replies, b"ready ")
    limit(task["memory"], _FILE_SIZE, seconds=task["seconds"])
    confine(os.getcwd(), refuse_processes=True)
    scope: dict[str, Any] = {"__name__": "solution"}
    try:
        exec(compile(task["solution"], "solution", "exec"), scope)
        exec(tests, scope)
    except BaseException:  # noqa: BLE001 (whatever a solution raises, SystemExit too, it does not pass)
        os._exit(1)
    write(replies, token)
    os._exit(0)  # threads that the solution left running end here


if __name__ == "__main__":
    _run_tests()
