"""`init` and `optimize` run alone from the command line. (Apart from the other stages, which need no
torch.)"""

from __future__ import annotations

import json
from pathlib import Path

from stepagent.assembly.components import make_components
from stepagent.assembly.identity import identity
from stepagent.assembly.session import Resources
from stepagent.config.prompts import solve_prompt
from stepagent.config.settings import Config, InitSettings
from stepagent.console import table
from stepagent.files.problems import load_held_out, problem_file
from stepagent.files.runs import RunFolder, unless_made
from stepagent.optimize.merge import refuse_existing
from stepagent.optimize.trainer import process_count
from stepagent.stages.evaluate import evaluate_stage, evaluation_inputs, evaluation_outputs
from stepagent.stages.optimize_tmp import optimize_stage
from stepagent.stages.train import initialize, replayer, sft_rows


def init_alone(config: Config, init: InitSettings, out: Path) -> None:
    """Train M_1 into `out`. If the config names held-out data and asks its model in process, M_0 and M_1 are
    measured on them, into `out`-evaluation: greedy solutions, their form, and labelled pairs. The same
    command finishes what a killed one left."""
    wanted = config.evaluate
    if wanted is None or config.backend.kind != "transformers" or process_count() > 1:
        initialize(config, init, out)
        return
    folder = out.with_name(f"{out.name}-evaluation")
    run = RunFolder(folder)
    given = {"model": Path(config.model), **init.files()}
    how = identity(config, "init", "seed")
    if not run.begun("init", given, how):
        refuse_existing(out)
    problems = problem_file(wanted.problems, folder)
    load_held_out(problems)
    sft_rows(config, init)

    def train() -> None:
        initialize(config, init, out)

    light = wanted.without_search()
    with Resources(config, folder) as resources:

        def measured(name: str, model: str) -> dict[str, float | None]:
            files = evaluation_outputs(folder / name)
            run.stage(
                name,
                evaluation_inputs(model, problems, light),
                files,
                [*identity(config, "backend", "generator", "judge", "seed"), light.model_dump(mode="json")],
                lambda: evaluate_stage(
                    make_components(config, model, resources), config, light, problems, name, folder / name
                ),
            )
            figures: dict[str, float | None] = json.loads(files["metrics"].read_text(encoding="utf-8"))
            return figures

        before = measured("M_0", config.model)
        run.stage("init", given, {"model": out}, how, lambda: unless_made(out, train))
        after = measured("M_1", str(out))
    rows = {
        name.replace("_", " "): f"{_percent(before[name])} -> {_percent(after[name])}"
        for name in ("valid_format", "greedy_accuracy", "judge_accuracy", "judge_consistency")
        if after[name] is not None
    }
    table("M_0 -> M_1", rows)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def optimize_alone(config: Config, model: str, data: str, out: Path) -> None:
    """Step-wise DPO of `model` on `data` into the folder `out`, with the rows that the config replays."""
    optimize_stage(
        model,
        data,
        out,
        config.optimize,
        config.seed,
        str(out),
        solve_prompt(config.generator),
        replayer(config, "alone"),
        config.replay.weight if config.replay else 1.0,
    )
