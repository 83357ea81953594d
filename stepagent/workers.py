"""A process that answers one line at a time, and is killed when it is too slow: for code that may loop or eat memory.

It runs a script of its own: a plain script, a notebook and an interactive session need no `if __name__ == "__main__"`,
as they would for a process that imports the caller's main module.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue


class WorkerError(RuntimeError):
    """The process does not start; the message is the line that it wrote instead of "ready"."""


class Worker:
    """The process of a `script`, which gets the caller's `sys.path` as JSON, then `arguments`. It writes the line
    "ready" when it is, then a line for each that it reads. May be asked from several threads: one question at a
    time."""

    def __init__(self, script: Path, arguments: Sequence[str] = (), *, start_seconds: float) -> None:
        self._script = script
        self._arguments = arguments
        self._start_seconds = start_seconds
        self.forget()

    def forget(self) -> None:
        """Begin without a process; one that was there is left to the parent, whose it is after a fork."""
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: SimpleQueue[bytes] = SimpleQueue()
        self._ready = False

    def ask(self, question: bytes, seconds: float) -> bytes:
        """Return the reply to a line. Raises TimeoutError after `seconds`, EOFError if the process dies, WorkerError if
        it does not start; it is gone then, and the next question starts another one."""
        with self._lock:
            try:
                self._await_start()
                return self._asked(question, seconds)
            except BaseException:  # an interrupted question must not be answered to the next one
                self.stop()
                raise

    def _asked(self, question: bytes, seconds: float) -> bytes:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(question)
            process.stdin.flush()
            reply = self._replies.get(timeout=seconds)
        except Empty:
            raise TimeoutError from None
        except OSError:
            raise EOFError from None
        if not reply:
            raise EOFError
        return reply

    def _await_start(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        self.start()
        if not self._ready:
            line = b""
            with suppress(Empty):
                line = self._replies.get(timeout=self._start_seconds)
            if line != b"ready\n":
                raise WorkerError(line.decode(errors="replace").strip())
            self._ready = True

    def start(self) -> None:
        """Start the process, if there is none, without waiting until it is ready."""
        with self._lock:
            if self._process is not None:
                return
            # -P: the folder of the script is not to shadow anybody's modules; the caller's own path holds them
            path = json.dumps([os.path.abspath(folder) for folder in sys.path])
            self._process = process = subprocess.Popen(
                [sys.executable, "-P", self._script, path, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._replies, self._ready = SimpleQueue(), False
            threading.Thread(target=_hand_on, args=(process, self._replies), daemon=True).start()

    def stop(self) -> None:
        """Kill the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            with suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()


def _hand_on(process: subprocess.Popen[bytes], replies: SimpleQueue[bytes]) -> None:
    """Put each line of the process into `replies`, and an empty one when it has ended."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            replies.put(line)
    replies.put(b"")
