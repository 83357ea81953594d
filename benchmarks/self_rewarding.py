"""Is it the model's own judgement that teaches? Four arms from the same M_1, on held-out problems.

    python benchmarks/self_rewarding.py --seeds 3 --json self_rewarding.json

Per seed, M_0 is initialised once to M_1; then three rounds each with
  self    the model judges its own steps (the method)
  random  a coin judges (control: DPO on noise)
  oracle  a judge that knows the right lines (what a perfect judge would give)
  sft     the self-judge's chosen steps, trained by likelihood on as many step tokens as the DPO sees
          (is it the preference, or just more training?)
Gains are paired per problem; intervals are 95 %, over problems and seeds pooled.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepagent.assembly.components import make_components
from stepagent.assembly.session import Resources
from stepagent.config.settings import Config
from stepagent.demo.run import demo_config, make_data
from stepagent.demo.world import line_is_right
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.files.problems import load_problems, problem_file
from stepagent.files.runs import RunFolder
from stepagent.optimize.packing import Target
from stepagent.optimize.sft import train_targets
from stepagent.stages.evaluate import evaluate_stage
from stepagent.stages.iterate import iterate
from stepagent.stages.search import search_stage
from stepagent.stages.train import initialize
from stepagent.types import StepPreference

JUDGES = {"self": None, "random": "random", "oracle": "stepagent.demo.oracle:OracleJudge"}


def run_seed(folder: Path, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """All arms of one seed: per arm and model, the evaluation and what its search yielded."""
    base = demo_config(folder, [f"seed={seed}", *overrides])
    make_data(base, folder)
    assert base.init
    start = folder / "M_1"
    if not start.is_dir():
        initialize(base, base.init, start)
    done: dict[str, Any] = {}
    for arm, kind in JUDGES.items():
        changes: dict[str, Any] = {"init": None, "model": str(start), "watch": {"problems": 0}}
        if kind:
            changes["judge"] = {"kind": kind}
            light = {"search_problems": 0, "pairs": None, "check_step": None}
            changes["evaluate"] = {**base.model_dump()["evaluate"], **light}
        config = Config.model_validate({**base.model_dump(), **changes})
        iterate(config, folder / arm)
        done[arm] = _measured(folder / arm, config.rounds)
    with Resources(base, folder / "sft") as resources:
        done["sft"] = _sft_arm(base, start, folder, resources)
    return done


def _measured(folder: Path, rounds: int) -> list[dict[str, Any]]:
    models = []
    for index in range(1, rounds + 2):
        metrics = folder / "evaluation" / f"M{index}" / "metrics.json"
        models.append(json.loads(metrics.read_text()))
        pairs = folder / f"round_{index}" / "preferences.jsonl"
        if pairs.is_file():
            models[-1] |= _pair_quality(read_rows(pairs, StepPreference))
    return models


def _pair_quality(rows: Sequence[StepPreference]) -> dict[str, Any]:
    """How many pairs a search made, and in what share the chosen line is right and the other wrong."""
    right = [
        line_is_right(row.question, row.prefix, row.chosen)
        and not line_is_right(row.question, row.prefix, row.rejected)
        for row in rows
    ]
    return {"pairs": len(rows), "pairs_right": statistics.mean(right) if right else None}


def _sft_arm(config: Config, start: Path, folder: Path, resources: Resources) -> list[dict[str, Any]]:
    """Search with the self-judge, then likelihood on the chosen steps instead of DPO on the pairs."""
    assert config.evaluate
    light = config.evaluate.model_copy(update={"search_problems": 0, "pairs": None, "check_step": None})
    run = RunFolder(folder / "sft")
    model, models = start, []
    for index in range(1, config.rounds + 2):
        components = make_components(config, str(model), resources)
        measured = run.path / "evaluation" / f"M{index}"
        held_out = problem_file(light.problems, run.path)
        evaluate_stage(components, config, light, held_out, f"M{index}", measured)
        models.append(json.loads((measured / "metrics.json").read_text()))
        if index > config.rounds:
            break
        drawn = load_problems(folder / "self" / f"round_{index}" / "problems.jsonl")
        files = run.round(index)
        write_rows(files / "problems.jsonl", drawn)
        trees, pairs = files / "trees.jsonl", files / "preferences.jsonl"
        search_stage(components, drawn, len(drawn), trees, pairs, config, index)
        rows = read_rows(pairs, StepPreference)
        targets = [
            Target((*row.prompt_ids, *row.chosen_ids), len(row.prompt_ids))
            for row in rows
            if row.prompt_ids and row.chosen_ids  # the in-process backend always gives ids
        ]
        chosen = sum(len(row.chosen_ids or ()) for row in rows)
        both = chosen + sum(len(row.rejected_ids or ()) for row in rows)
        settings = config.optimize.model_copy(update={"epochs": config.optimize.epochs * both / chosen})
        before, model = model, run.model(index + 1)
        train_targets(before, targets, model, settings, config.seed + index, lambda *_: None, print)
    return models


def gain(seeds: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    """Greedy accuracy of the last model minus the first, in points, paired per problem."""
    paired = [
        100.0 * (last - first)
        for seed in seeds
        for first, last in zip(seed[arm][0]["solved"], seed[arm][-1]["solved"], strict=True)
    ]
    mean = statistics.mean(paired)
    half = 1.96 * statistics.stdev(paired) / math.sqrt(len(paired))
    per_seed = [100 * (seed[arm][-1]["greedy_accuracy"] - seed[arm][0]["greedy_accuracy"]) for seed in seeds]
    return {"gain": mean, "low": mean - half, "high": mean + half, "per_seed": per_seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--work", type=Path, help="keep the runs here (continued if they exist)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="self_rewarding_"))
    numbers = range(arguments.seed, arguments.seed + arguments.seeds)
    seeds = [run_seed(work / f"seed_{seed}", seed, arguments.overrides) for seed in numbers]
    gains = {arm: gain(seeds, arm) for arm in (*JUDGES, "sft")}
    curves = {
        arm: [
            {
                key: statistics.mean(seed[arm][i][key] for seed in seeds)
                for key in (
                    "greedy_accuracy",
                    "search_accuracy",
                    "judge_accuracy",
                    "judge_consistency",
                    "own_judge_accuracy",
                    "own_pairs",
                    "pairs",
                    "pairs_right",
                    "steps_per_solution",
                )
                if all(seed[arm][i].get(key) is not None for seed in seeds)
            }
            for i in range(len(seeds[0][arm]))
        ]
        for arm in gains
    }
    print(f"\n{len(seeds)} seeds, greedy accuracy on held-out problems, points")
    print(f"{'arm':8}{'M_1':>7}{'last':>7}{'gain':>7}   95 % interval   per seed")
    for arm, figures in gains.items():
        first, last = (100 * curves[arm][i]["greedy_accuracy"] for i in (0, -1))
        each = " ".join(f"{value:+.1f}" for value in figures["per_seed"])
        interval = f"{figures['low']:+.1f} to {figures['high']:+.1f}"
        print(f"{arm:8}{first:7.1f}{last:7.1f}{figures['gain']:+7.1f}   {interval:15} {each}")
    print("\nself, mean over seeds")
    for index, model in enumerate(curves["self"], start=1):
        print(f"  M_{index}: " + "  ".join(f"{key} {value:.3f}" for key, value in model.items()))
    if arguments.json:
        result = {"seeds": list(numbers), "gains": gains, "curves": curves}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
