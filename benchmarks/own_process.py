"""A measurement in a process of its own, so that its peak memory is its alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def measured(module: str, *arguments: str) -> list[float]:
    """The numbers that `module.measure(*arguments)` of this folder returns."""
    code = f"import sys, {module} as it; print(*it.measure(*sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return [float(number) for number in done.stdout.splitlines()[-1].split()]
