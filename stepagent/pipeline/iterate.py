"""The circle: M_0 -> M_1, then search, optimize and evaluate, round after round. Stages are files."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stepagent.config import Config
from stepagent.errors import ConfigError
from stepagent.jsonl import write_atomic, write_rows
from stepagent.pipeline.components import SEARCH_KEYS, check_components, identity
from stepagent.pipeline.deploying import Models, make_server, models_of
from stepagent.pipeline.evaluating import EVALUATION_FILES, evaluate_stage, load_check
from stepagent.pipeline.initialize import initialize, sft_rows
from stepagent.pipeline.optimizing import optimize_stage
from stepagent.pipeline.problems import check_problems, load_held_out, load_problems, problem_file
from stepagent.pipeline.progress import output
from stepagent.pipeline.resources import Resources
from stepagent.pipeline.rows import load_pairs
from stepagent.pipeline.searching import search_stage
from stepagent.report.summary import print_summary
from stepagent.runs import RunFolder


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
        models = _turn(config, run, asked, shares)
    summary = {"wall_seconds": round(run.wall_seconds(), 1), "models": models}
    write_atomic(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    print_summary(summary, folder, output)
    return summary


def _turn(config: Config, run: RunFolder, asked: Models, shares: Sequence[slice]) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = []
    model = config.model
    if init := config.init:
        models += _evaluate(run, config, asked, model, 0, None)
        first = run.model(1)

        def start() -> None:
            asked.rest()
            initialize(config, init, first)

        run.stage(
            "init",
            {"model": Path(model), "ift": init.ift, **({"eft": init.eft} if init.eft else {})},
            {"model": first},
            identity(config, "init", "seed"),
            start,
        )
        model = str(first)
    pairs: int | None = None
    for index in range(1, config.rounds + 1):
        models += _evaluate(run, config, asked, model, index, pairs)
        pairs = _round(run, config, asked, model, index, shares[index - 1])
        model = str(run.model(index + 1))
    models += _evaluate(run, config, asked, model, config.rounds + 1, pairs)
    return models


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


def _round(run: RunFolder, config: Config, asked: Models, model: str, index: int, share: slice) -> int:
    """Search with M_index, train M_{index+1}; returns the number of pairs."""
    folder = run.round(index)
    source = problem_file(config.problems, run.path)
    problems, trees = folder / "problems.jsonl", folder / "trees.jsonl"
    preferences, trained = folder / "preferences.jsonl", run.model(index + 1)
    settings = config.model_dump(mode="json")

    def draw() -> None:
        drawn = load_problems(source)
        random.Random(config.seed).shuffle(drawn)
        write_rows(problems, [problem.without_answer() for problem in drawn[share]])

    def search() -> None:
        components = asked.components(model, index)
        drawn = load_problems(problems)
        report = search_stage(components, drawn, len(drawn), trees, preferences, config, index)
        write_atomic(folder / "search.json", json.dumps(report, indent=2) + "\n")

    def train() -> None:
        asked.rest()
        report = optimize_stage(
            model, preferences, trained, config.optimize, config.seed + index, f"round {index}"
        )
        write_atomic(folder / "optimize.json", json.dumps(report, indent=2) + "\n")

    run.stage(
        f"round {index}: problems",
        {"problems": source},
        {"problems": problems},
        [config.seed, str(share)],
        draw,
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
        {"model": Path(model), "preferences": preferences},
        {"model": trained},
        [settings["optimize"], config.seed],
        train,
    )
    if asked.served:
        run.stage(
            f"round {index}: deploy",
            {"model": trained},
            {},
            settings["serve"],
            lambda: asked.deploy(str(trained), index + 1),
        )
    with preferences.open(encoding="utf-8") as rows:
        return sum(1 for _ in rows)


def _evaluate(
    run: RunFolder, config: Config, asked: Models, model: str, index: int, pairs: int | None
) -> list[dict[str, Any]]:
    """One entry of the summary's models; none if the config evaluates nothing."""
    wanted = config.evaluate
    if wanted is None:
        return []
    name = f"M{index}"
    folder = run.path / "evaluation" / name
    metrics = folder / "metrics.json"

    def measure() -> None:
        evaluate_stage(asked.components(model, index), config, wanted, source, name, folder)

    source = problem_file(wanted.problems, run.path)
    inputs = {"model": Path(model), "problems": source}
    run.stage(
        f"evaluate {name}",
        {**inputs, "pairs": wanted.pairs} if wanted.pairs else inputs,
        {name: folder / file for name, file in EVALUATION_FILES.items()},
        identity(config, *SEARCH_KEYS, "evaluate"),
        measure,
    )
    entry: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    del entry["solved"]
    return [{**entry, "preferences": pairs}]
