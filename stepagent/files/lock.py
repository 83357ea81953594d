"""One stepagent at a time in a folder: two would pay everything twice and write over each other."""

from __future__ import annotations

import os
from pathlib import Path

from stepagent.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_descriptors: dict[Path, int] = {}
"""Descriptors of the folders that this process works in. The system gives a lock back when its process ends."""


def hold(folder: Path) -> None:
    """Keep other processes from working in `folder`, which is made if it is not there, until `release`. Raises
    ConfigError if one does already."""
    key = folder.resolve()
    if key in _descriptors or fcntl is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(f"another stepagent works in {folder}; wait for it, or choose another --out") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return
    _descriptors[key] = descriptor


def release(folder: Path) -> None:
    """Let others work in `folder` again."""
    if (descriptor := _descriptors.pop(folder.resolve(), None)) is not None:
        os.close(descriptor)
