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

_WORLD = Path(stepagent.demo.__file__).parent


def demo_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Write the demo's data and config into `folder` (if they are not there) and load the config."""
    text = (_WORLD / "demo.yaml").read_text(encoding="utf-8")
    text = text.replace("{base}", str(_WORLD / "base")).replace("{data}", str(folder / "data"))
    path = folder / "demo.yaml"
    write_atomic(path, text)
    config = load_config(path, overrides)
    if not (folder / "data" / "held_out.jsonl").is_file():
        needed = sum(config.problems_per_round or ())
        write_data(
            folder / "data",
            seed=config.seed,
            ift=1500,
            eft=6000,
            problems=needed,
            held_out=1000,
            pairs=500,
        )
    return config


def run_demo(folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """M_0 -> M_1 -> M_4 in the arithmetic world."""
    return iterate(demo_config(folder, overrides), folder)
