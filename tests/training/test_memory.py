"""The memory of a training, while it runs and after it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries decide by themselves")
def test_memory_of_a_training_is_given_back() -> None:
    """A process of its own: 400 MB in small blocks with others between them, as a training leaves them."""
    code = """
import psutil, torch
from stepagent.training.memory import give_back_memory, keep_freed_memory

def used():
    return psutil.Process().memory_info().rss / 1e6

keep_freed_memory()
before = used()
blocks = [torch.ones(10_000) for _ in range(10_000)]
del blocks[:-1]
kept = used() - before
give_back_memory()
print(kept, used() - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, left = map(float, result.stdout.split())
    assert kept > 300
    assert left < 0.2 * kept
