"""`stepagent demo`: write the arithmetic world's files, make IFT and EFT data of them with the very commands that users
have, and let the circle turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import stepagent.demo
from stepagent.assembly.session import Session
from stepagent.config.loading import load_config
from stepagent.config.settings import Config
from stepagent.console import closing_table_only
from stepagent.data.eft import make_eft
from stepagent.data.ift import Columns, make_ift
from stepagent.demo.data import write_data
from stepagent.errors import ConfigError
from stepagent.files.jsonl import write_atomic
from stepagent.files.runs import RunFolder
from stepagent.models.folders import unless_made
from stepagent.stages.iterate import iterate
from stepagent.stages.train import initialize
from stepagent.types import ModelVersion

_WORLD = Path(stepagent.demo.__file__).parent
_SIZES = {"solutions": 1500, "eft": 1500, "held_out": 1000}


def demo_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Write the demo's config and, unless they are there for the same seed and sizes, the world's files into `folder`;
    returns the config."""
    text = (_WORLD / "demo.yaml").read_text(encoding="utf-8")
    text = text.replace("{base}", str(_WORLD / "base")).replace("{data}", str(folder / "data"))
    path = folder / "demo.yaml"
    write_atomic(path, text)
    config = load_config(path, overrides)
    sizes = {**_SIZES, "problems": sum(config.problems_per_round or (400,))}
    data = folder / "data"
    with RunFolder(folder) as run:
        run.stage(
            "data",
            inputs={},
            outputs={name: data / f"{name}.jsonl" for name in ("solutions", "eft_problems", "problems", "held_out")},
            identity=[config.seed, sizes],
            work=lambda: write_data(data, config.seed, **sizes),
        )
    return config


def make_data(config: Config, folder: Path) -> None:
    """From the world's files to ift.jsonl, eft.jsonl and test.jsonl: `data ift`, `init` on those solutions alone, which
    makes the policy that searches, and `data eft`. Finished files are kept."""
    init, eft = config.init, config.eft
    if init is None or eft is None:
        raise ConfigError("the demo needs its 'init' and 'eft' sections")
    data, policy = folder / "data", folder / "policy"
    solutions = data / "solutions.jsonl"
    ift = {"ift": data / "ift" / "ift.jsonl"}

    def cut_solutions() -> None:
        with Session(config, data / "ift") as session:
            make_ift(session, str(solutions), Columns())

    on_solutions = init.model_copy(update={"eft": None})
    with RunFolder(folder) as run:
        run.stage(
            "data ift",
            inputs={"solutions": solutions, "held out": data / "held_out.jsonl"},
            outputs=ift,
            identity=config.model_dump(mode="json")["generator"],
            work=cut_solutions,
        )
        run.stage(
            "policy",
            inputs={"model": Path(config.model), **ift},
            outputs={"model": policy},
            identity=[
                init.model_dump(mode="json", exclude=set(init.files())),
                config.generator.model_dump(mode="json"),
                config.seed,
            ],
            work=lambda: unless_made(policy, lambda: initialize(config, on_solutions, policy)),
        )
    with Session(config, data / "eft") as session:
        make_eft(session, eft, ModelVersion.at(str(policy)))


def run_demo(folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """M_0 -> data -> M_1 -> M_4 in the arithmetic world."""
    config = demo_config(folder, overrides)
    with closing_table_only():
        make_data(config, folder)
    return iterate(config, folder)
