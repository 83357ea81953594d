"""`stepagent demo`: write the arithmetic world's files and let the circle turn on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import stepagent.demo
from stepagent.config import Config, load_config
from stepagent.demo.data import write_data
from stepagent.jsonl import write_atomic
from stepagent.pipeline.iterate import iterate
from stepagent.runs import RunFolder

_WORLD = Path(stepagent.demo.__file__).parent
_SIZES = {"ift": 1500, "eft": 8000, "held_out": 1000, "pairs": 500}


def demo_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Write the demo's config and, unless they are there for the same seed and sizes, its data files into
    `folder`; returns the config."""
    text = (_WORLD / "demo.yaml").read_text(encoding="utf-8")
    text = text.replace("{base}", str(_WORLD / "base")).replace("{data}", str(folder / "data"))
    path = folder / "demo.yaml"
    write_atomic(path, text)
    config = load_config(path, overrides)
    sizes = {**_SIZES, "problems": sum(config.problems_per_round or (400,))}
    RunFolder(folder).stage(
        "data",
        {},
        {"data": folder / "data"},
        [config.seed, sizes],
        lambda: write_data(folder / "data", config.seed, **sizes),
    )
    return config


def run_demo(folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """M_0 -> M_1 -> M_4 in the arithmetic world."""
    return iterate(demo_config(folder, overrides), folder)
