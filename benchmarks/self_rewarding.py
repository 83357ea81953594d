"""Is it the model's own judgement that teaches? Arms from the same M_1, on held-out problems.

    python benchmarks/self_rewarding.py --seeds 3 --json self_rewarding.json

Per seed, from --seed on, M_0 is initialised once to M_1; then three rounds each with
  self    the model judges its own steps (the method, by the demo's recipe)
  random  a coin judges (control: DPO on noise; nothing is replayed, nor with the oracle)
  oracle  a judge that knows the right lines (what a perfect judge would give)
  sft     the self-judge's chosen steps, trained by likelihood alone on as many step tokens as the method sees
and, by --arms, the recipe with one ingredient changed: no_replay; sigmoid and sigmoid_likelihood, which see as many
step tokens; few_epochs.
Gains are paired per problem; intervals are 95 %, over problems and seeds pooled.
"""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _bench import WarningMonitor, make_parser, write_figures

from stepagent.assembly.session import Session
from stepagent.demo.run import demo_config, make_data
from stepagent.demo.world import line_is_right
from stepagent.files.jsonl import read_rows, write_json
from stepagent.files.problems import ProblemFile
from stepagent.files.runs import SCHEMA, RunFolder
from stepagent.stages.evaluate import evaluate, read_evaluation
from stepagent.stages.iterate import iterate
from stepagent.stages.search import search
from stepagent.training.packing import Target
from stepagent.training.sft import train_targets
from stepagent.types import ModelVersion, StepPreference

ARMS: dict[str, tuple[str, ...]] = {
    "self": (),
    "random": ("judge={kind: random}",),
    "oracle": ("judge={kind: stepagent.demo.oracle:OracleJudge}",),
    "sft": (),
    "no_replay": ("replay=null",),
    "sigmoid": ("optimize.loss=sigmoid", "optimize.beta=0.5", "optimize.nll_alpha=0.2", "optimize.epochs=4"),
    "sigmoid_likelihood": ("optimize.loss=sigmoid", "optimize.beta=0.5", "optimize.nll_alpha=3", "optimize.epochs=4"),
    "few_epochs": ("optimize.epochs=2",),
}
_JUDGED_BY_ITSELF = ("self", "no_replay", "sigmoid", "sigmoid_likelihood", "few_epochs")
_UNMEASURED = ("evaluate.search_problems=0", "evaluate.pairs=null", "evaluate.check_step=null")


def run_seed(folder: Path, seed: int, names: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Run the arms of one seed. Returns, per arm and model, the evaluation and the yield of its search."""
    common = [f"seed={seed}", "watch.problems=0", *overrides]
    base = demo_config(folder, common)
    make_data(base, folder)
    arms: dict[str, Any] = {}
    for arm in names:
        changes = ARMS[arm] if arm in _JUDGED_BY_ITSELF else (*ARMS[arm], *_UNMEASURED)
        config = demo_config(folder, [*common, *changes])
        start = RunFolder(folder / "self").model(1)
        if arm == "sft":
            with Session(base, folder / arm) as session:
                arms[arm] = sft_arm(session, start, RunFolder(folder / "self"))
            continue
        if arm not in _JUDGED_BY_ITSELF:  # these judges have no prompt in which rows could be replayed
            config = config.model_copy(update={"init": None, "replay": None, "model": start.path})
        elif arm != "self":
            _share_start(folder / "self", folder / arm)
        iterate(config, folder / arm)
        arms[arm] = _measured(RunFolder(folder / arm), config.rounds)
    return arms


def _share_start(first: Path, arm: Path) -> None:
    """Put M_1 of another arm, which is trained from the same data, into the folder of an arm that has not begun."""
    if not arm.exists():
        shutil.copytree(first / "M_1", arm / "M_1")
        write_json(arm / "manifest.json", {"schema": SCHEMA, "stages": {"init": RunFolder(first).stages()["init"]}})


def _measured(run: RunFolder, rounds: int) -> list[dict[str, Any]]:
    models = []
    for index in range(1, rounds + 2):
        models.append(asdict(read_evaluation(run.path / "evaluation" / f"M_{index}")))
        pairs = run.round(index) / "preferences.jsonl"
        if pairs.is_file():
            models[-1] |= _pair_quality(read_rows(pairs, StepPreference))
    return models


def _pair_quality(rows: Sequence[StepPreference]) -> dict[str, Any]:
    """Count the pairs of a search, and the share in which the chosen line is right and the other wrong."""
    right = [
        line_is_right(row.question, row.prefix, row.chosen)
        and not line_is_right(row.question, row.prefix, row.rejected)
        for row in rows
    ]
    return {"pairs": len(rows), "pairs_right": statistics.mean(right) if right else None}


def sft_arm(session: Session, start: ModelVersion, self_run: RunFolder) -> list[dict[str, Any]]:
    """Search with the self-judge, the same problems as `self_run`, then learn the chosen steps by likelihood instead of
    DPO on the pairs."""
    config, run = session.config, session.run_folder
    assert config.evaluate
    light = config.evaluate.model_copy(update={"search_problems": 0, "pairs": None, "check_step": None})
    model, models = start, []
    for index in range(1, config.rounds + 2):
        out = run.path / "evaluation" / model.name
        evaluate(session, model, out, settings=light)
        models.append(asdict(read_evaluation(out)))
        if index > config.rounds:
            break
        problems = ProblemFile(self_run.round(index) / "problems.jsonl")
        search(session, model, problems, out=run.round(index), round_index=index)
        rows = read_rows(run.round(index) / "preferences.jsonl", StepPreference)
        targets = [
            Target((*row.prompt_ids, *row.chosen_ids), len(row.prompt_ids))
            for row in rows
            if row.prompt_ids and row.chosen_ids  # the in-process backend always gives ids
        ]
        chosen = sum(len(row.chosen_ids or ()) for row in rows)
        rejected = 0 if config.optimize.loss == "likelihood" else sum(len(row.rejected_ids or ()) for row in rows)
        settings = config.optimize.model_copy(update={"epochs": config.optimize.epochs * (chosen + rejected) / chosen})
        source, model = model, run.model(index + 1)
        if not Path(model.path).is_dir():
            monitor, seed = WarningMonitor(), config.seed + index
            train_targets(source.path, targets, Path(model.path), settings=settings, seed=seed, monitor=monitor)
    return models


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval."""
    mean = statistics.mean(values)
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


_CURVE = (
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


def difference(seeds: Sequence[dict[str, Any]], first: tuple[str, int], last: tuple[str, int]) -> dict[str, Any]:
    """Return the greedy accuracy of one model minus that of another in points, paired per problem, with its 95 %
    interval. A model is an arm and a place in its row, M_1 at 0."""
    return paired_gain([(seed[first[0]][first[1]]["solved"], seed[last[0]][last[1]]["solved"]) for seed in seeds])


def paired_gain(marks: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> dict[str, Any]:
    """Return the greedy accuracy of the later models and their gain over the first ones in points with its 95 %
    interval, paired per problem. `marks` holds those of both models for each seed; a problem without one counts
    nowhere."""
    outcomes = [
        (first, last)
        for before, after in marks
        for first, last in zip(before, after, strict=True)
        if first is not None and last is not None
    ]
    gain, low, high = mean_interval([100.0 * (last - first) for first, last in outcomes])
    return {"greedy_accuracy": statistics.mean(last for _, last in outcomes), "gain": gain, "interval": [low, high]}


def arm_figures(seeds: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    """Return the gain of the arm's last model over M_1, pooled and per seed, its figures, and those of all its models
    (`models`), means over the seeds."""
    models = [
        {
            key: statistics.mean(seed[arm][place][key] for seed in seeds)
            for key in _CURVE
            if all(seed[arm][place].get(key) is not None for seed in seeds)
        }
        for place in range(len(seeds[0][arm]))
    ]
    per_seed = [100 * (seed[arm][-1]["greedy_accuracy"] - seed[arm][0]["greedy_accuracy"]) for seed in seeds]
    return {**difference(seeds, (arm, 0), (arm, -1)), "per_seed": per_seed, **models[-1], "models": models}


def main() -> None:
    parser = make_parser(__doc__, seeds=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["self", "random", "oracle", "sft"])
    parser.add_argument("--work", type=Path, help="keep the runs here (continued if they exist)")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="self_rewarding_"))
    numbers = range(options.seed, options.seed + options.seeds)
    names = [arm for arm in ARMS if arm in ("self", *options.arms)]  # the others start from its M_1
    seeds = [run_seed(work / f"seed_{seed}", seed, names, options.overrides) for seed in numbers]
    arms = {arm: arm_figures(seeds, arm) for arm in seeds[0]}
    print(f"\n{len(seeds)} seeds, greedy accuracy on held-out problems, points")
    print(f"{'arm':16}{'M_1':>7}{'last':>7}{'gain':>7}   95 % interval   per seed")
    for arm, figures in arms.items():
        first, last = (100 * figures["models"][place]["greedy_accuracy"] for place in (0, -1))
        print(f"{arm:16}{first:7.1f}{last:7.1f}{_words(figures)} {' '.join(f'{v:+.1f}' for v in figures['per_seed'])}")
    over_sft = difference(seeds, ("sft", -1), ("self", -1)) if "sft" in arms else None
    if over_sft:
        print(f"{'self over sft':30}{_words(over_sft)}")
    print("\nself, mean over seeds")
    for index, model in enumerate(arms["self"]["models"], start=1):
        print(f"  M_{index}: " + "  ".join(f"{key} {value:.3f}" for key, value in model.items()))
    write_figures(options.json, {"seeds": list(numbers), "arms": arms, "self_over_sft": over_sft})


def _words(figures: dict[str, Any]) -> str:
    low, high = figures["interval"]
    return f"{figures['gain']:+7.1f}   {f'{low:+.1f} to {high:+.1f}':15}"


if __name__ == "__main__":
    main()
