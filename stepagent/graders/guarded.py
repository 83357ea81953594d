"""An own grader, and the scorer of an environment, in a process of its own: it may raise, loop, die or eat memory."""

from __future__ import annotations

import base64
import json
import pickle
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stepagent.errors import GraderError
from stepagent.types import Problem
from stepagent.workers import Worker, WorkerError

SECONDS = 60.0
"""The longest that a grader may take for one solution."""
_START_SECONDS = 300.0  # for the imports of its module, and its constructor


class Guarded:
    """Grader that asks the class `target` (module:Class), made with `arguments`, in a process. See `grader_process.py`
    for its limits. One solution at a time; each method raises GraderError where the class fails."""

    def __init__(self, target: str, arguments: Mapping[str, Any]) -> None:
        self._target = target
        folder = TemporaryDirectory(prefix="stepagent-grader-")
        made_of = base64.b64encode(pickle.dumps((target, dict(arguments)))).decode()
        script = Path(__file__).with_name("grader_process.py")
        self._worker = Worker(script, [folder.name, made_of], start_seconds=_START_SECONDS)
        weakref.finalize(self, _end, self._worker, folder)

    def grade(self, problem: Problem, solution: str) -> bool:
        """See Grader."""
        right: bool = self._ask("grade", asdict(problem), solution)
        return right

    def answer(self, solution: str) -> str | None:
        """See AnswerReader."""
        answer: str | None = self._ask("answer", solution)
        return answer

    def same(self, first: str, second: str) -> bool:
        """See AnswerReader."""
        equal: bool = self._ask("same", first, second)
        return equal

    def _ask(self, method: str, *arguments: object) -> Any:
        question = json.dumps([method, *arguments], default=str).encode() + b"\n"
        name = f"the grader {self._target}"
        try:
            reply = json.loads(self._worker.ask(question, SECONDS))
        except TimeoutError:
            raise GraderError(f"{name} took more than {SECONDS:g} seconds for a solution") from None
        except EOFError:
            raise GraderError(f"{name} died with a solution; it may take 4 GiB of memory") from None
        except WorkerError as error:
            raise GraderError(f"{name} cannot be made: {error or 'its process does not start'}") from None
        if "error" in reply:
            raise GraderError(f"{name} {reply['error']}")
        return reply["value"]


def _end(worker: Worker, folder: TemporaryDirectory[str]) -> None:
    worker.stop()
    folder.cleanup()
