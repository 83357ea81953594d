"""Every error a user can mend.

StepagentError
├── ConfigError    the config or the command line cannot be used as written
├── DataError      a data file has a row that cannot be used; names file and line
├── ModelError     a model folder or a checkpoint cannot be used
├── BackendError   a request failed for good; becomes a record in the tree, not a crash
│   └── TransientError  it may succeed if it is made again
└── ParityError    two models that must agree do not

The message is one sentence: what is wrong, where, and how to mend it. `stepagent` prints it and exits with 2.
"""

from __future__ import annotations

from pathlib import Path


class StepagentError(Exception):
    """Base of all errors that are shown as a sentence instead of a traceback."""


class ConfigError(StepagentError, ValueError):
    """The config or the command line cannot be used as written."""


class DataError(StepagentError, ValueError):
    """A data file cannot be used."""

    @classmethod
    def at(cls, path: Path, line: int, message: str) -> DataError:
        """The error for one row: `path:line: message`."""
        return cls(f"{path}:{line}: {message}")


class ModelError(StepagentError, ValueError):
    """A model folder or a checkpoint cannot be used."""


class BackendError(StepagentError, RuntimeError):
    """A request failed for good."""


class TransientError(BackendError):
    """A request that may succeed if it is made again, after `retry_after` seconds if the server said so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ParityError(StepagentError, RuntimeError):
    """Two models that must give the same outputs do not."""
