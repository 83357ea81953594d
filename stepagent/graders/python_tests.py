"""Programs, by tests."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import BoundedSemaphore

from stepagent.answers import without_thoughts
from stepagent.config.settings import Positive
from stepagent.errors import GraderError
from stepagent.types import Problem

_FENCE = re.compile(r"```(?:python3?|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_WAIT = 5  # times the processor's seconds: for code that sleeps, and for a busy machine
_AT_ONCE = BoundedSemaphore(os.cpu_count() or 1)


class PythonTestsGrader:
    """Grader of Python programs: the code of the solution's last fenced block runs, then the problem's answer, which is
    tests (assertions). Right if nothing raises within `seconds` of processor time and `memory_mb` MiB of memory; a
    program that exceeds them is wrong. Each runs in a process of its own, without network and without writing
    outside a temporary folder: a fence against mistakes, no wall against malice (docs/graders.md)."""

    def __init__(self, seconds: Positive = 10, memory_mb: Positive = 1024) -> None:
        self._seconds = seconds
        self._memory = memory_mb << 20

    def grade(self, problem: Problem, solution: str) -> bool:
        """See Grader. Raises GraderError for tests that are no Python."""
        if problem.answer is None:
            raise GraderError("the problem has no 'answer', which holds the tests")
        code = self.answer(solution)
        return code is not None and self._passes(code, problem.answer)

    def answer(self, solution: str) -> str | None:
        """Return the code of the last fenced block; None without one."""
        blocks = _FENCE.findall(without_thoughts(solution))
        return blocks[-1].strip() or None if blocks else None

    def same(self, first: str, second: str) -> bool:
        """Whether two programs are the same text: tests are no part of a vote."""
        return first.strip() == second.strip()

    def _passes(self, code: str, tests: str) -> bool:
        token = secrets.token_hex(16)
        task = {"token": token, "solution": code, "tests": tests, "seconds": self._seconds, "memory": self._memory}
        # a file's size is limited, unlike that of a pipe's content
        with _AT_ONCE, TemporaryDirectory() as folder, TemporaryFile() as question, TemporaryFile() as reply:
            question.write(json.dumps(task).encode())
            question.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-I", Path(__file__).with_name("sandbox.py")],
                stdin=question,
                stdout=reply,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            )
            try:
                process.wait(self._seconds * _WAIT)
            except subprocess.TimeoutExpired:
                return False
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            reply.seek(0)
            words = reply.read(1 << 12).decode(errors="replace")
        if words.startswith("tests: "):
            raise GraderError(f"the tests of the problem are no Python: {words.removeprefix('tests: ')}")
        if not words.startswith("ready "):
            raise GraderError("the sandbox of python_tests does not start")
        return words == f"ready {token}"
