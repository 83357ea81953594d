"""Keep freed memory in the process: on a CPU, fetching it from the system again costs time."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt's parameters, from malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensor. By default it returns every large block to the
    system, and fetching it again, page by page, can take a quarter of a training step's time. Without glibc
    nothing happens."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_TRIM_THRESHOLD, _LARGEST)
    mallopt(_TOP_PAD, 2**26)
    mallopt(_MMAP_THRESHOLD, 2**25)
