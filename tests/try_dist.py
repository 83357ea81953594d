"""Install a built wheel into bare environments and try it there: `python try_dist.py DIST [PART...]`.

Each part is an extra of pyproject.toml, or `bare` for none; `minimum` is the oldest versions of the base, [view],
[report] and [ray], and `minimum-train` those of [train]. It gets an environment of its own, with nothing of the
checkout in it, and `smoke.py` tries it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("bare", "view", "report", "ray", "tasks", "train", "minimum", "minimum-train")
TORCH = "torch==2.13.0"
"""Installed first, by its pinned version, as in the Makefile: a range would pull the newest CUDA build."""


def run(*command: object) -> None:
    """Run a command outside the checkout. Exits with its code if it fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run([*map(str, command)], cwd="/", env=clean, check=False)
    if result.returncode != 0:
        sys.exit(f"failed with {result.returncode}: {' '.join(map(str, command))}")


def try_part(wheel: Path, part: str, folder: Path) -> None:
    """Install the wheel for one part into a new environment in `folder`, and try it."""
    extras = {"bare": [], "minimum": ["view", "report", "ray"], "minimum-train": ["train"]}.get(part, [part])
    limits = ROOT / (f"constraints-{part}.txt" if part.startswith("minimum") else "constraints.txt")
    python = folder / part / "bin" / "python"
    run(sys.executable, "-m", "venv", folder / part)
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", limits)
    if "train" in extras:
        run(*install, TORCH)
    run(*install, f"{wheel}[{','.join(extras)}]" if extras else wheel)
    run(python, "-m", "pip", "--disable-pip-version-check", "check")
    run(python, ROOT / "tests" / "smoke.py", *extras)


def main(dist: Path, parts: Sequence[str]) -> None:
    """Try each part with the one wheel in `dist`."""
    (wheel,) = dist.resolve().glob("*.whl")
    for part in parts or PARTS:
        if part not in PARTS:
            sys.exit(f"{part}: no part; choose from {', '.join(PARTS)}")
        print(f"== {part}", flush=True)
        with tempfile.TemporaryDirectory() as name:
            try_part(wheel, part, Path(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
