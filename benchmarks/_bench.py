"""Parts that the benchmarks share: command line, figures as JSON, configs, processes of their own, a monitor."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from stepagent.config.settings import Config


def make_parser(description: str | None, *, seed: int = 0, **sizes: int | float | str) -> argparse.ArgumentParser:
    """Return a parser with an option for each size, of its default's type, and with --seed and --json."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in {**sizes, "seed": seed}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser


def write_figures(path: Path | None, figures: object) -> None:
    """Write the figures as JSON if --json named a file."""
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")


def make_config(text: str, **values: object) -> Config:
    """Return the config of a YAML text whose {names} take these values."""
    return Config.model_validate(yaml.safe_load(text.format(**values)))


def peak_mib() -> float:
    """Return the peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_apart(module: str, *arguments: str, function: str = "measure") -> list[float]:
    """Return the numbers that `module.function(*arguments)` of this folder returns in a process of its own, whose peak
    memory is its alone."""
    code = f"import sys, {module} as it; print(*it.{function}(*sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return [float(number) for number in result.stdout.splitlines()[-1].split()]


class WarningMonitor:
    """Monitor of a training that hands its warnings to `tell` and leaves the rest."""

    def __init__(self, tell: Callable[[str], object] = print) -> None:
        self._tell = tell

    def step(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """See Monitor."""

    def warn(self, warning: str) -> None:
        """See Monitor."""
        self._tell(warning)
