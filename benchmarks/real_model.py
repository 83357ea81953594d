"""What teaches a real model? The circle on real problems, from one M_1, with judges and controls side by side.

    python benchmarks/smollm2.py SmolLM2-135M-Instruct
    python benchmarks/real_data.py word_problems --source FOLDER --out data/word_problems
    python benchmarks/real_model.py --recipe recipes/smollm2-word-problems.yaml --model SmolLM2-135M-Instruct \\
        --data data/word_problems --work runs/real --hours 3 --json word_problems.json

  self       the model judges its own steps in writing (the method)
  rollouts   a step is as good as its continuations: the answer that most of them reach is taken for right
  calculator a step is as good as its arithmetic, recomputed (no references either)
  coin       the calculator's pairs, in each of which a coin says which step is better (control: the same search, steps
             and replayed rows)
  reference  rollouts with the reference answers (what a perfect judge of answers would give)
  random     a coin judges (control: DPO on noise)
  sft        likelihood of the steps that the self-judge chose, on as many step tokens as its DPO
  outcome    DPO on whole solutions, judged by the majority of answers (no steps)

Rounds go side by side, so that after any time all arms have had as many. The same command goes on where it was cut
off, and --hours ends it before the next round of an arm. Gains are greedy accuracy on held-out problems minus that of
M_1, in points, paired per problem, seeds pooled, with 95 % intervals over problems.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from _bench import make_parser, write_figures
from self_rewarding import paired_gain, sft_arm

from stepagent.assembly.session import Session
from stepagent.config.loading import load_config
from stepagent.config.settings import Config
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.files.runs import RunFolder
from stepagent.models.folders import unless_made
from stepagent.stages.evaluate import evaluate, read_evaluation
from stepagent.stages.iterate import iterate
from stepagent.stages.train import initialize, train_on_pairs
from stepagent.types import Problem, StepPreference

_ROLLOUTS = {"kind": "rollouts", "prompt": "short_solve", "rollouts": 2, "temperature": 1.0, "top_p": 1.0}


def arm_changes(arm: str, config: Config) -> dict[str, Any]:
    """Return the sections of the recipe that an arm replaces."""
    base = config.model_dump()
    longest = base["evaluate"]["max_tokens"]
    rollouts = {**_ROLLOUTS, "max_tokens": longest}
    return {
        "self": {},
        "sft": {},
        "rollouts": {"judge": rollouts},
        "calculator": {"judge": {"kind": "calculator"}},
        "coin": {"judge": {"kind": "calculator"}},
        "reference": {"judge": {**rollouts, "target": "reference"}},
        "random": {"judge": {"kind": "random"}},
        "outcome": {
            "judge": rollouts,
            "search": {"kind": "best_of_n", "n": base["search"]["width"], "pick": "judge", "max_tokens": longest},
        },
    }[arm]


def arm_config(arm: str, base: Config, start: str, rounds: int) -> Config:
    """Return the config of an arm that starts from the model in the folder `start`. It replays the rows that the recipe
    does; those of judging only if the model judges."""
    changes: dict[str, Any] = {"init": None, "model": start, "rounds": rounds, **arm_changes(arm, base)}
    if base.replay and base.init:
        shares = base.replay.model_dump() | ({} if arm == "self" else {"eft": 0.0})
        files = {f"{name}_data": getattr(base.init, name) for name in ("ift", "eft") if shares[name]}
        changes["replay"] = {**shares, **files}
    return Config.model_validate({**base.model_dump(), **changes})


ARMS = ("self", "rollouts", "calculator", "coin", "reference", "random", "sft", "outcome")


def recipe(options: argparse.Namespace, seed: int) -> Config:
    """Return the recipe with the model, the data and the seed of the command line."""
    data = options.data
    paths = {
        "model": str(options.model),
        "problems": str(data / "problems.jsonl"),
        "init.ift": str(data / "ift.jsonl"),
        "init.eft": str(data / "eft.jsonl"),
        "evaluate.problems": str(data / f"{options.split}.jsonl"),
        "evaluate.pairs": str(data / "pairs.jsonl"),
    }
    overrides = [*(f"{key}={value}" for key, value in paths.items()), f"seed={seed}", *options.overrides]
    return load_config(options.recipe, overrides)


def run(options: argparse.Namespace) -> None:
    """Run the arms of every seed, round after round, until --hours are over."""
    stop = time.monotonic() + 3600 * options.hours
    for seed in seeds(options):
        base, folder = recipe(options, seed), options.work / f"seed_{seed}"
        init, start = base.init, RunFolder(folder).model(1)
        assert init
        folder.mkdir(parents=True, exist_ok=True)
        unless_made(Path(start.path), lambda: initialize(base, init, Path(start.path)))  # noqa: B023 (called at once)
        if options.hours > 0:
            measure(base, folder, 1)
        for rounds in range(1, options.rounds + 1):
            for arm in options.arms:
                if time.monotonic() > stop:
                    print(f"--hours {options.hours} are over; the same command goes on", flush=True)
                    return
                print(f"seed {seed}, {arm}, round {rounds}", flush=True)
                config = arm_config(arm, base, start.path, rounds)
                if arm == "sft":
                    with Session(config, folder / arm) as session:
                        sft_arm(session, start, RunFolder(folder / "self"))
                    continue
                if arm == "coin":
                    coin_round(config, folder, rounds, start.path)
                else:
                    iterate(config.model_copy(update={"evaluate": None}), folder / arm)
                measure(config, folder / arm, rounds + 1, judge=arm == "self")


def coin_round(config: Config, folder: Path, index: int, start: str) -> None:
    """Train M_`index` + 1 of the arm `coin` on the pairs that the calculator found in the same round of the run in
    `folder`, after a coin has swapped half of them; the first model is `start`."""
    run, source = RunFolder(folder / "coin"), RunFolder(folder / "calculator").round(index) / "preferences.jsonl"
    rng, out = random.Random(config.seed + index), Path(run.model(index + 1).path)
    rows = [
        replace(
            row,
            chosen=row.rejected,
            rejected=row.chosen,
            chosen_ids=row.rejected_ids,
            rejected_ids=row.chosen_ids,
            chosen_ends=row.rejected_ends,
            rejected_ends=row.chosen_ends,
        )
        if rng.random() < 0.5
        else row
        for row in read_rows(source, StepPreference)
    ]
    pairs = run.round(index) / "preferences.jsonl"
    pairs.parent.mkdir(parents=True, exist_ok=True)
    write_rows(pairs, rows)
    model = start if index == 1 else run.model(index).path
    unless_made(
        out, lambda: train_on_pairs(config, model, pairs, out=out, seed=config.seed + index, label=f"round {index}")
    )


def measure(config: Config, folder: Path, index: int, *, judge: bool = True) -> None:
    """Measure M_`index` of the run in `folder` on the held-out problems, and the config's judge under it on labelled
    pairs. M_1, which all arms share, is measured once."""
    assert config.evaluate
    settings = config.evaluate if judge else config.evaluate.model_copy(update={"pairs": None})
    with Session(config, folder) as session:
        model = session.run_folder.model(index)
        evaluate(session, model, folder / "evaluation" / model.name, settings=settings)


def seeds(options: argparse.Namespace) -> range:
    """Return the seeds of a run."""
    return range(options.seed, options.seed + options.seeds)


def arm_figures(folders: Sequence[Path], sets: Sequence[str]) -> dict[str, Any]:
    """Return the figures of an arm: `models` M_1, M_2, ... with their gains, as many as every seed has; the gain of the
    last one, its interval, and the judge's accuracy under it. `sets` names the set of each held-out problem."""
    curves = []
    for folder in folders:
        paths = sorted(folder.glob("evaluation/M_*/metrics.json"), key=lambda path: int(path.parent.name[2:]))
        later = [path.parent for path in paths if path.parent.name != "M_1"]
        start = folder.parent / "evaluation" / "M_1"
        curves.append([asdict(read_evaluation(path)) for path in (start, *later)])
    models = []
    for place in range(min(map(len, curves), default=0)):
        rows = [curve[place] for curve in curves]
        marks = [(curve[0]["solved"], curve[place]["solved"]) for curve in curves]
        model = {"model": f"M_{place + 1}", **paired_gain(marks)}
        model["sets"] = {
            name: paired_gain([(_part(first, sets, name), _part(last, sets, name)) for first, last in marks])
            for name in dict.fromkeys(sets)
        }
        for key in ("judge_accuracy", "judge_consistency", "valid_format", "steps_per_solution"):
            values = [row[key] for row in rows if row[key] is not None]
            model[key] = statistics.mean(values) if values else None
        models.append(model)
    rounds = [path for folder in folders for path in folder.glob("round_*/preferences.jsonl")]
    last = models[-1] if models else {}
    count = sum(len(read_rows(path, StepPreference)) for path in rounds)
    return {**last, "seeds": len(folders), "pairs": count, "models": models}


def _part(solved: Sequence[Any], sets: Sequence[str], name: str) -> list[Any]:
    return [outcome for outcome, group in zip(solved, sets, strict=True) if group == name]


def hardware() -> str:
    """Return the machine in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads"


def commit() -> str:
    """Return the commit of this checkout, or "" outside one."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def figures_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all arms that have a model beyond M_1."""
    problems = read_rows(options.data / f"{options.split}.jsonl", Problem)
    sets = [problem.id.rpartition("-")[0] or options.split for problem in problems]
    arms = {}
    for arm in ARMS:
        folders = [options.work / f"seed_{seed}" / arm for seed in seeds(options)]
        folders = [folder for folder in folders if (folder / "evaluation" / "M_2" / "metrics.json").is_file()]
        if folders:
            arms[arm] = arm_figures(folders, sets)
    return {
        "model": options.model.name,
        "data": options.data.name,
        "split": options.split,
        "seeds": list(seeds(options)),
        "hardware": hardware(),
        "commit": commit(),
        "arms": arms,
    }


def main() -> None:
    parser = make_parser(__doc__, seeds=1, rounds=3, hours=4.0)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keep the runs here (continued if they exist)")
    parser.add_argument(
        "--split", choices=("held_out", "validation"), default="held_out", help="problems to measure on"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args()
    run(options)
    figures = figures_of(options)
    print(f"{figures['model']} on {figures['data']}, greedy accuracy on held-out problems, points")
    print(f"{'arm':10} {'model':6}{'greedy':>7}{'gain':>7}   95 % interval    judge   pairs")
    for arm, row in figures["arms"].items():
        interval = f"{row['interval'][0]:+.1f} to {row['interval'][1]:+.1f}"
        judge = "" if row["judge_accuracy"] is None else f"{100 * row['judge_accuracy']:.1f}"
        print(
            f"{arm:10} {row['model']:6}{100 * row['greedy_accuracy']:7.1f}{row['gain']:+7.1f}   {interval:15}"
            f"{judge:>7}{row['pairs']:8}"
        )
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
