"""The circle: M_0 -> M_1, then search, optimize, deploy and evaluate, round after round. Stages are files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stepagent.assembly.components import check_in_process
from stepagent.assembly.session import Session
from stepagent.config.settings import Config
from stepagent.console import closing_table_only, output, warn
from stepagent.errors import ConfigError, ModelError
from stepagent.files.jsonl import read_rows, write_json
from stepagent.files.problems import Answers, ProblemFile
from stepagent.files.rows import load_labelled_pairs
from stepagent.report.page import finish_with_report
from stepagent.report.summary import print_summary
from stepagent.stages.check_model import check_model
from stepagent.stages.deploy import check_server, deploy, serving
from stepagent.stages.evaluate import boundary_of, evaluate, load_check, pairs_right, read_evaluation
from stepagent.stages.search import search
from stepagent.stages.tracking import Tracker
from stepagent.stages.train import init, optimize, replay_of, sft_rows
from stepagent.stages.verify import verify
from stepagent.stages.watch import watch
from stepagent.types import ModelVersion, StepPreference


def iterate(config: Config, folder: Path) -> dict[str, Any]:
    """Run, or continue, all rounds of `config` in `folder`; returns the content of summary.json.

    Finished stages are recognised by content hashes and skipped; a stage that was cut off goes on from what it had
    written.
    """
    with Session(config, folder, serves=True) as session:
        shares = check_inputs(session)
        _try_training(config, folder)
        session.keep_config()
        with closing_table_only(), serving(session), Tracker(config, folder) as tracker:
            circle = _turn(session, shares, tracker)
        seconds = round(session.run_folder.wall_seconds(), 1)
    summary = {"wall_seconds": seconds, **asdict(circle)}
    write_json(folder / "summary.json", summary)
    print_summary(summary, folder, output)
    finish_with_report(folder)
    if circle.drifted and config.watch.then == "stop":
        name, ways = next(iter(circle.drifted.items()))
        raise ModelError(
            f"stopped: {name} has drifted from M_1 ({'; '.join(ways)}); the last good model is {circle.last_good} in "
            f"{folder}; see 'watch' in the config"
        )
    return summary


def _try_training(config: Config, folder: Path) -> None:
    """Try what every training of the circle will do with the model, before the first search is paid for. Raises
    ModelError."""
    if any(folder.glob("round_*")):
        return
    for settings in (config.init, config.optimize):
        if settings:
            check_model(config.model, settings)


@dataclass(slots=True)
class Circle:
    """The outcome of the rounds: a row for each model, the ways in which models drifted, the last good model."""

    models: list[dict[str, Any]] = field(default_factory=list)
    drifted: dict[str, list[str]] = field(default_factory=dict)
    last_good: str = ""


def _turn(session: Session, shares: Sequence[slice], tracker: Tracker) -> Circle:
    """M_0 -> M_1 -> ... Every model is measured and watched; the next round starts from the last good one."""
    config, circle = session.config, Circle()
    base = ModelVersion(0, config.model)
    newest = replace(base, index=1)
    if config.init:
        circle.models += _measured(session, base, {})
        newest = init(session, config.init, session.run_folder.model(1))
    source = good = newest
    pairs: dict[str, Any] = {}
    for index in range(1, config.rounds + 2):
        circle.models += _measured(session, newest, pairs)
        tracker.update()
        if ways := watch(session, newest):
            circle.drifted[newest.name] = ways
            warn([f"{newest.name} has drifted from M_1: {'; '.join(ways)}"])
        else:
            good = newest
        source = newest if config.watch.then == "warn" else good
        if index > config.rounds or (ways and config.watch.then == "stop"):
            break
        if source != newest:
            warn([f"round {index} goes on from the last good model, {good.name}"])
        newest, pairs = _round(session, source, index, share=shares[index - 1])
        tracker.update()
    if source != newest:
        deploy(session, source, "last good model on the server")
    circle.last_good = good.name
    return circle


def _round(session: Session, model: ModelVersion, index: int, *, share: slice) -> tuple[ModelVersion, dict[str, Any]]:
    """Search with `model`, train the next one and deploy it. Returns that model, and the summary's figures of the
    pairs that made it."""
    folder = session.run_folder.round(index)
    preferences = folder / "preferences.jsonl"
    search(session, model, _draw(session, share, folder), out=folder, round_index=index)
    preferences = verify(session, model, preferences)
    trained = optimize(session, model, preferences, trained=session.run_folder.model(index + 1))
    deploy(session, trained, session.stage_name("deploy", folder))
    return trained, _pair_figures(session, preferences)


def _draw(session: Session, share: slice, folder: Path) -> ProblemFile:
    """Return the problems of a round: its share of the shuffled pool, without answers."""
    config, path = session.config, folder / "problems.jsonl"
    source = ProblemFile.of(config.problems, session.folder)
    session.run_folder.stage(
        session.stage_name("problems", folder),
        inputs={"problems": source.path},
        outputs={"problems": path},
        identity=[config.seed, str(share)],
        work=lambda: source.draw(config.seed, share, path),
    )
    return ProblemFile(path)


def _measured(session: Session, model: ModelVersion, pairs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the summary's row of a model, with the figures of the `pairs` that made it; none if the config evaluates
    nothing."""
    settings = session.config.evaluate
    if settings is None:
        return []
    if model.index == 0:  # M_0 was not taught to judge: a judged search would cost most and say nothing
        settings = settings.without_search()
    folder = session.folder / "evaluation" / model.name
    evaluate(session, model, folder, settings=settings)
    row = asdict(read_evaluation(folder))
    del row["solved"]
    return [{**row, "preferences": None, "pairs_right": None, **pairs}]


def _pair_figures(session: Session, preferences: Path) -> dict[str, Any]:
    config, rows = session.config, read_rows(preferences, StepPreference)
    check = load_check(config.evaluate) if config.evaluate else None
    answers = Answers([config.problems], session.folder)
    return {
        "preferences": len(rows),
        "pairs_right": pairs_right(rows, answers, check, boundary=boundary_of(session.bound), grader=session.grader),
    }


def check_inputs(session: Session) -> list[slice]:
    """Read every file that the config names and bind every component, so that a fault is found before any work.

    Returns the slice of the shuffled problems that each round searches. Raises ConfigError or DataError.
    """
    config, folder = session.config, session.folder
    check_in_process(config)
    check_server(session)
    session.bound  # noqa: B018 (binding checks)
    if config.verify:
        session.binder.other_judge("verify", config.verify)
    replay_of(config, "check")
    if config.init:
        sft_rows(config, config.init)
    if config.evaluate:
        ProblemFile.of(config.evaluate.problems, folder).held_out(config.grader.kind)
        load_check(config.evaluate)
        if config.evaluate.pairs:
            load_labelled_pairs(config.evaluate.pairs)
    return _shares(config, ProblemFile.of(config.problems, folder))


def _shares(config: Config, problems: ProblemFile) -> list[slice]:
    counts = config.problems_per_round
    if counts is None:
        return [slice(0, len(problems))] * config.rounds
    if len(counts) < config.rounds:
        raise ConfigError(f"problems_per_round has {len(counts)} numbers for {config.rounds} rounds; give one each")
    ends = [sum(counts[: i + 1]) for i in range(config.rounds)]
    if ends[-1] > len(problems):
        raise ConfigError(f"{problems.source}: {len(problems)} problems, but problems_per_round asks for {ends[-1]}")
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=False)]
