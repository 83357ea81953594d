"""The circle: M_0 -> M_1, then search, optimize and evaluate, round after round. Stages are files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stepagent.assembly.components import check_components
from stepagent.assembly.identity import SEARCH_KEYS, identity
from stepagent.assembly.session import Resources
from stepagent.config.settings import Config
from stepagent.console import output, warn
from stepagent.errors import ConfigError, ModelError
from stepagent.files.jsonl import read_rows, write_atomic
from stepagent.files.problems import (
    Answers,
    check_problems,
    draw_problems,
    load_held_out,
    load_problems,
    problem_file,
)
from stepagent.files.rows import load_pairs
from stepagent.files.runs import RunFolder, unless_made
from stepagent.report.summary import print_summary
from stepagent.stages.deploy import Models, make_server, models_of
from stepagent.stages.evaluate import (
    boundary_of,
    evaluate_stage,
    evaluation_inputs,
    evaluation_outputs,
    load_check,
    pairs_right,
)
from stepagent.stages.optimize_tmp import optimize_stage
from stepagent.stages.search import search_stage
from stepagent.stages.train import initialize, replayer, sft_rows
from stepagent.stages.watch import watch
from stepagent.types import StepPreference


def iterate(config: Config, folder: Path) -> dict[str, Any]:
    """Run, or continue, all rounds of `config` in `folder`; returns what summary.json holds.

    Finished stages are recognised by content hashes and skipped; a stage that was cut off goes on from
    what it had written.
    """
    shares = check_inputs(config, folder)
    run = RunFolder(folder)
    settings = config.model_dump(mode="json")
    write_atomic(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    with Resources(config, folder) as resources, models_of(config, run, resources) as asked:
        turned = _turn(config, run, asked, shares)
    summary = {"wall_seconds": round(run.wall_seconds(), 1), **asdict(turned)}
    write_atomic(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    print_summary(summary, folder, output)
    if turned.drifted and config.watch.then == "stop":
        name, ways = next(iter(turned.drifted.items()))
        raise ModelError(
            f"stopped: {name} has drifted from M_1 ({'; '.join(ways)}); the last good model is "
            f"{turned.last_good} in {folder}; see 'watch' in the config"
        )
    return summary


@dataclass(slots=True)
class Turned:
    """What the rounds came to: a row per model, how models drifted, and the name of the last good one."""

    models: list[dict[str, Any]] = field(default_factory=list)
    drifted: dict[str, list[str]] = field(default_factory=dict)
    last_good: str = ""


def _turn(config: Config, run: RunFolder, asked: Models, shares: Sequence[slice]) -> Turned:
    turned = Turned()
    model = config.model
    if init := config.init:
        turned.models += _evaluate(run, config, asked, model, 0, {})
        first = run.model(1)

        def start() -> None:
            asked.rest()
            initialize(config, init, first)

        run.stage(
            "init",
            {"model": Path(model), **init.files()},
            {"model": first},
            identity(config, "init", "seed"),
            lambda: unless_made(first, start),
        )
        model = str(first)
    good = used = newest = (model, 1)
    made: dict[str, Any] = {}
    for index in range(1, config.rounds + 2):
        turned.models += _evaluate(run, config, asked, *newest, made)
        if ways := watch(run, config, asked, *newest):
            turned.drifted[f"M_{index}"] = ways
            warn([f"M_{index} has drifted from M_1: {'; '.join(ways)}"])
        else:
            good = newest
        used = newest if config.watch.then == "warn" else good
        if index > config.rounds or (ways and config.watch.then == "stop"):
            break
        if used != newest:
            warn([f"round {index} goes on from the last good model, M_{good[1]}"])
        made = _round(run, config, asked, *used, index, shares[index - 1])
        newest = (str(run.model(index + 1)), index + 1)
    if used != newest and asked.served:
        run.stage(
            "last good model on the server",
            {"model": Path(used[0])},
            {},
            config.model_dump(mode="json")["serve"],
            lambda: asked.deploy(*used),
        )
    turned.last_good = f"M_{good[1]}"
    return turned


def check_inputs(config: Config, folder: Path) -> list[slice]:
    """Read every file the config names, so that a bad one is found before any work is done.

    Returns which of the shuffled problems each round searches. Raises ConfigError or DataError.
    """
    if config.backend.kind == "transformers" and "model" in config.backend.arguments():
        raise ConfigError(
            "backend.model: a run serves M_1, M_2, ... in turn, so the in-process backend takes no fixed "
            "model; write 'model:' at the top of the config"
        )
    make_server(config, Path("."))
    check_components(config)
    replayer(config, "check")
    if config.init:
        sft_rows(config, config.init)
    if config.evaluate:
        load_held_out(problem_file(config.evaluate.problems, folder))
        load_check(config.evaluate)
        if config.evaluate.pairs:
            load_pairs(config.evaluate.pairs)
    return _shares(config, problem_file(config.problems, folder))


def _shares(config: Config, problems: Path) -> list[slice]:
    available = check_problems(problems)
    counts = config.problems_per_round
    if counts is None:
        return [slice(0, available)] * config.rounds
    if len(counts) < config.rounds:
        raise ConfigError(
            f"problems_per_round has {len(counts)} numbers for {config.rounds} rounds; give one each"
        )
    ends = [sum(counts[: i + 1]) for i in range(config.rounds)]
    if ends[-1] > available:
        raise ConfigError(f"{problems}: {available} problems, but problems_per_round asks for {ends[-1]}")
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=False)]


def _round(
    run: RunFolder, config: Config, asked: Models, model: str, source_index: int, index: int, share: slice
) -> dict[str, Any]:
    """Search with M_`source_index` (M_index, or the last good model before it), train M_{index+1}; returns
    what the summary says of its pairs."""
    folder = run.round(index)
    source = problem_file(config.problems, run.path)
    problems, trees = folder / "problems.jsonl", folder / "trees.jsonl"
    preferences, trained = folder / "preferences.jsonl", run.model(index + 1)
    settings = config.model_dump(mode="json")

    again = config.init.files() if config.replay and config.init else {}

    def search() -> None:
        components = asked.components(model, source_index)
        drawn = load_problems(problems)
        report = search_stage(components, drawn, len(drawn), trees, preferences, config, index)
        write_atomic(folder / "search.json", json.dumps(report, indent=2) + "\n")

    def train() -> None:
        asked.rest()
        report = optimize_stage(
            model,
            preferences,
            trained,
            config.optimize,
            config.seed + index,
            f"round {index}",
            None,
            replayer(config, f"round {index}"),
            config.replay.weight if config.replay else 1.0,
        )
        write_atomic(folder / "optimize.json", json.dumps(report, indent=2) + "\n")

    run.stage(
        f"round {index}: problems",
        {"problems": source},
        {"problems": problems},
        [config.seed, str(share)],
        lambda: draw_problems(source, config.seed, share, problems),
    )
    run.stage(
        f"round {index}: search",
        {"model": Path(model), "problems": problems},
        {"trees": trees, "preferences": preferences},
        identity(config, *SEARCH_KEYS),
        search,
    )
    run.stage(
        f"round {index}: optimize",
        {"model": Path(model), "preferences": preferences, **again},
        {"model": trained},
        [settings["optimize"], config.seed, *([settings["replay"]] if again else [])],
        lambda: unless_made(trained, train),
    )
    if asked.served:
        run.stage(
            f"round {index}: deploy",
            {"model": trained},
            {},
            settings["serve"],
            lambda: asked.deploy(str(trained), index + 1),
        )
    rows = read_rows(preferences, StepPreference)
    check = load_check(config.evaluate) if config.evaluate else None
    right = pairs_right(rows, Answers([config.problems], run.path), check, boundary_of(config))
    return {"preferences": len(rows), "pairs_right": right}


def _evaluate(
    run: RunFolder, config: Config, asked: Models, model: str, index: int, made: dict[str, Any]
) -> list[dict[str, Any]]:
    """One entry of the summary's models, with what is said of the pairs that `made` it; none if the config
    evaluates nothing."""
    wanted = config.evaluate
    if wanted is None:
        return []
    if index == 0:  # nobody has taught M_0 to judge: a judged search would cost most and say nothing
        wanted = wanted.without_search()
    name = f"M{index}"
    folder = run.path / "evaluation" / name
    metrics = folder / "metrics.json"

    def measure() -> None:
        evaluate_stage(asked.components(model, index), config, wanted, source, name, folder)

    source = problem_file(wanted.problems, run.path)
    run.stage(
        f"evaluate {name}",
        evaluation_inputs(model, source, wanted),
        evaluation_outputs(folder),
        identity(config, *SEARCH_KEYS, "evaluate"),
        measure,
    )
    entry: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    del entry["solved"]
    return [{**entry, "preferences": None, "pairs_right": None, **made}]
