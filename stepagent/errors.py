"""Every error a user can mend.

StepagentError
├── ConfigError    the config or the command line cannot be used as written
│   └── RefusedError    an endpoint does not know the address or the model, or forbids it
├── DataError      a data file has a row that cannot be used; names file and line
├── ModelError     a model folder or a checkpoint cannot be used
├── BackendError   a request failed for good; becomes a record in the tree, not a crash
│   └── TransientError  it may succeed if it is made again
├── ServeError     the model server cannot be started, reached or given a model
├── GraderError    a grader raised, hung or died; becomes a record, neither right nor wrong
├── BudgetError    the run's budget is used up; finished work is kept
└── ParityError    two models that must agree do not

The message is one sentence that names the fault, its place and the remedy. `stepagent` prints it and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class StepagentError(Exception):
    """Base of all errors that are shown as a sentence instead of a traceback."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a config: the keys (and places in lists) that lead to it, and its sentence."""

    place: tuple[str | int, ...]
    sentence: str


class ConfigError(StepagentError, ValueError):
    """The config or the command line cannot be used as written. The message names the first fault; `faults` are all
    of them, where more than the first is looked for."""

    def __init__(self, message: str = "", faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


@contextmanager
def collected(faults: list[Fault], place: tuple[str | int, ...]) -> Iterator[None]:
    """Add the faults of a ConfigError, or of any other error that a user can mend, to `faults` instead of raising it.
    `place` is that of an error which names none."""
    try:
        yield
    except StepagentError as error:
        faults.extend(getattr(error, "faults", ()) or [Fault(place, str(error))])


class RefusedError(ConfigError):
    """An endpoint does not know the address or the model, or does not allow the request."""


class DataError(StepagentError, ValueError):
    """A data file cannot be used."""

    @classmethod
    def at(cls, path: Path, line: int, message: str) -> DataError:
        """Return the error for one row: `path:line: message`."""
        return cls(f"{path}:{line}: {message}")


class ModelError(StepagentError, ValueError):
    """A model folder or a checkpoint cannot be used."""


class BackendError(StepagentError, RuntimeError):
    """A request failed for good."""


class TransientError(BackendError):
    """A request that may succeed if it is made again, after `retry_after` seconds if the server said so.
    `rate_limited`: the server asked for fewer requests (429). `status` is that of its reply, None if there was none
    that could be read."""

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        rate_limited: bool = False,
        *,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.rate_limited = rate_limited


class GraderError(StepagentError, RuntimeError):
    """A grader failed on a solution."""


class ServeError(StepagentError, RuntimeError):
    """The model server cannot be started, reached or given a model."""


class BudgetError(StepagentError, RuntimeError):
    """The budget is used up."""


class ParityError(StepagentError, RuntimeError):
    """Two models that must give the same outputs do not."""


def first_cause(error: BaseException) -> BaseException:
    """Return the first error that is no group: tasks that run together raise groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def explain(error: ValidationError) -> str:
    """Return the first fault that pydantic names, as `'field' sentence`."""
    return explain_fault(error.errors(include_url=False)[0])


def explain_fault(fault: ErrorDetails) -> str:
    """Return a fault that pydantic names, as `'field' sentence`."""
    field = ".".join(str(part) for part in fault["loc"])
    sentence = str(fault["msg"]).removeprefix("Value error, ")
    sentence = sentence[0].lower() + sentence[1:]
    return f"'{field}' {sentence}" if field else sentence
