"""The end of the process after Ctrl-C."""

from __future__ import annotations

import os
import sys


def leave(code: int) -> None:
    """End this process at once. Python itself would first wait for every thread; one that a library was starting when
    Ctrl-C came may never end. All files are closed by now."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
