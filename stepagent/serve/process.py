"""The managed server's process: start it, wait for it, stop it with its children, and keep its log."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from stepagent.errors import ServeError
from stepagent.files.jsonl import write_atomic

_GRACE = 20.0  # seconds between SIGTERM and SIGKILL


class Process:
    """At most one server process. Its output goes to `folder`/server.log, its id to `folder`/server.json, so
    that a server that outlived its killed parent is found and ended. `tell` receives the waiting time."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.log = folder / "server.log"
        self._record = folder / "server.json"
        self._running: subprocess.Popen[bytes] | None = None

    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._running is not None and self._running.poll() is None

    def start(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        host: str,
        *,
        port: int,
        healthy: Callable[[], bool],
        patience: float,
    ) -> None:
        """Start `command` and return once it is `healthy`.

        Raises ServeError if it ends, takes longer than `patience` seconds, cannot be found, or the port is
        another program's.
        """
        self._end_orphan()
        self.stop()
        if _is_taken(host, port):
            raise ServeError(f"{host}:{port} is taken by another program; choose another serve.port")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            try:
                self._running = subprocess.Popen(
                    command,
                    env={**os.environ, **env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise ServeError(f"serve.command: cannot run '{command[0]}' ({error.strerror})") from None
        write_atomic(self._record, json.dumps({"pid": self._running.pid, "mark": _mark(self._running.pid)}))
        start = time.monotonic()
        try:
            while not healthy():
                if not self.alive():
                    raise ServeError(f"the server ended while it started; {self._last_words()}")
                if time.monotonic() - start > patience:
                    raise ServeError(
                        f"the server did not answer within {patience:.0f} s (serve.start_seconds); {self._last_words()}"
                    )
                self._tell(f"server starts, {time.monotonic() - start:.0f} s")
                time.sleep(0.25)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process and all its children."""
        if self._running is not None:
            _end_group(self._running.pid, self._running.poll)
            self._running.wait()
            self._running = None
            self._record.unlink(missing_ok=True)

    def _end_orphan(self) -> None:
        """End the process of server.json if it is a server that an earlier run left behind."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            pid, mark = int(record["pid"]), record["mark"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        is_child = self._running is not None and self._running.pid == pid
        if mark and _mark(pid) == mark and not is_child:
            _end_group(pid, lambda: None if _mark(pid) == mark and not _dead(pid) else 0)

    def _last_words(self) -> str:
        """Return the cause of the end by the log of this start, or its last line, and where the whole log is."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2].splitlines()
        # The first exception is the cause; those after it say that something failed.
        errors = [line for line in lines if _EXCEPTION.search(line)] or lines[-1:]
        excerpt = f"it said: {errors[0].strip()[:300]}; " if errors else ""
        return f"{excerpt}the whole log is in {self.log}"


_EXCEPTION = re.compile(r"^(?!.*\b(?:INFO|WARNING|DEBUG)\b).*\b\w*(?:Error|Exception): ")


def _end_group(pid: int, exit_code: Callable[[], int | None]) -> None:
    """Ask the process group of `pid` to end (SIGTERM), and kill it if `exit_code` is None for too long."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    while exit_code() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _mark(pid: int) -> str:
    """Return a process' start time, which tells it apart from a later one with the same id; empty if there is
    none."""
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


def _dead(pid: int) -> bool:
    """Return whether a process has ended, even if nobody has asked for its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _is_taken(host: str, port: int) -> bool:
    """Return whether another program listens on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
