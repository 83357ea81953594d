"""The commands as functions, for notebooks and other programs. The command line calls the same ones.

They take a config (a `Config`, its keys as a mapping, or a YAML file) and a folder, go on from what the folder holds,
and return what is in it. They may be called where an event loop runs already. Their output goes to the logger
`stepagent`.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from stepagent import console
from stepagent.assembly.session import Session
from stepagent.config.loading import load_config, validate
from stepagent.config.settings import Config, ProblemSettings
from stepagent.files.jsonl import iter_numbered
from stepagent.files.problems import ProblemFile
from stepagent.stages.evaluate import Evaluation, read_evaluation
from stepagent.stages.evaluate import evaluate as evaluate_model
from stepagent.stages.judge import VerdictRow, judge_again
from stepagent.stages.judge import judge as judge_rows
from stepagent.tree import StepTree
from stepagent.types import ModelVersion, StepPreference

P = ParamSpec("P")
T = TypeVar("T")

Settings = Config | Mapping[str, Any] | str | Path


def _function(work: Callable[P, T]) -> Callable[P, T]:
    """Let a command run silently, and in a thread of its own where an event loop runs already."""

    @functools.wraps(work)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with console.embedded():
            if not _loop_runs():
                return work(*args, **kwargs)
            with ThreadPoolExecutor(1, thread_name_prefix="stepagent") as thread:
                return thread.submit(work, *args, **kwargs).result()

    return call


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Found:
    """The results of a search in its folder, read when they are asked for."""

    folder: Path

    def trees(self) -> Iterator[StepTree]:
        """Yield the judged trees, in the order in which they ended."""
        return (tree for _, tree in iter_numbered(self.folder / "trees.jsonl", StepTree))

    def preferences(self) -> Iterator[StepPreference]:
        """Yield the step preferences."""
        return (row for _, row in iter_numbered(self.folder / "preferences.jsonl", StepPreference))


def config_of(settings: Settings) -> Config:
    """Return the config of a YAML file or of its keys. Raises ConfigError."""
    if isinstance(settings, Config):
        return settings
    return validate(Config, dict(settings), "config") if isinstance(settings, Mapping) else load_config(settings)


@_function
def search(
    config: Settings,
    out: str | Path,
    *,
    model: str | None = None,
    problems: str | None = None,
    workers: int | None = None,
) -> Found:
    """Search step trees with `model` (by default the config's) on `problems` (a file, hub id or preset; by default the
    config's) into the folder `out`; on `workers` of Ray, if their number is given. Raises ConfigError, DataError,
    ModelError or BackendError."""
    from stepagent.stages.search import search as search_problems
    from stepagent.stages.verify import verify

    folder = Path(out)
    with Session(config_of(config), folder) as session:
        source = ProblemSettings(path=problems) if problems else session.config.problems
        file = ProblemFile.of(source, folder)
        # judges that know references, and workers elsewhere, read the file that is searched
        session = session.using(session.config.model_copy(update={"problems": ProblemSettings(path=str(file.path))}))
        version = _version(session, model)
        if workers:
            from stepagent.stages.search_on_ray import ray_runner

            session.runner = ray_runner(session, version, workers)
        if not search_problems(session, version, file, out=folder):
            console.already_done(folder)
        verify(session, version, folder / "preferences.jsonl")
        session.keep_config()
    return Found(folder)


@_function
def judge(config: Settings, data: str | Path, out: str | Path, *, model: str | None = None) -> list[VerdictRow]:
    """Judge rows {question, prefix, candidates, id?} into the folder `out`. Raises as `search` does."""
    with Session(config_of(config), Path(out)) as session:
        if not judge_rows(session, _version(session, model), Path(data), out=Path(out)):
            console.already_done(out)
    return [row for _, row in iter_numbered(Path(out) / "verdicts.jsonl", VerdictRow)]


@_function
def judge_trees(config: Settings, trees: str | Path, out: str | Path, *, model: str | None = None) -> Found:
    """Judge the trees of a finished search anew into the folder `out`. Raises as `search` does."""
    with Session(config_of(config), Path(out)) as session:
        if not judge_again(session, _version(session, model), Path(trees), out=Path(out)):
            console.already_done(out)
    return Found(Path(out))


@_function
def measure_judge(
    config: Settings, labelled: str, out: str | Path, *, sample: int | None = None, model: str | None = None
) -> dict[str, Any]:
    """Measure the config's judge on labelled pairs or steps; returns the figures of metrics.json. Raises as `search`
    does."""
    from stepagent.stages.measure_judge import measure_judge as measure

    with Session(config_of(config), Path(out)) as session:
        if not measure(session, _version(session, model), labelled, sample=sample, out=Path(out)):
            console.already_done(out)
    figures: dict[str, Any] = json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8"))
    return figures


@_function
def tune_judge(
    config: Settings,
    labelled: str,
    out: str | Path,
    *,
    budget: int | None = None,
    sample: int | None = None,
    model: str | None = None,
) -> dict[str, Any]:
    """Look for a better judge section on labelled pairs, within `budget` comparisons; returns the content of
    tuning.json. Raises as `search` does."""
    from stepagent.stages.tune_judge import BUDGET
    from stepagent.stages.tune_judge import tune_judge as tune

    with Session(config_of(config), Path(out)) as session:
        version = _version(session, model)
        if not tune(session, version, labelled, budget=budget or BUDGET, sample=sample, out=Path(out)):
            console.already_done(out)
    outcome: dict[str, Any] = json.loads((Path(out) / "tuning.json").read_text(encoding="utf-8"))
    return outcome


@_function
def optimize(config: Settings, data: str | Path, out: str | Path, *, model: str | None = None) -> dict[str, object]:
    """Train a model on step preferences (step-wise DPO) and write the merged model to `out`, which must not exist yet.
    Returns the closing figures. Raises ConfigError, DataError, ModelError or ParityError."""
    from stepagent.stages.train import optimize_command

    settings = config_of(config)
    return optimize_command(settings, model or settings.model, str(data), out=Path(out))


@_function
def evaluate(config: Settings, out: str | Path, *, model: str | None = None) -> Evaluation:
    """Measure greedy solutions, judged search and the judge on held-out data. Raises as `search` does."""
    with Session(config_of(config), Path(out)) as session:
        if not evaluate_model(session, _version(session, model), Path(out)):
            console.already_done(out)
        session.keep_config()
    return read_evaluation(Path(out))


@_function
def iterate(config: Settings, folder: str | Path) -> dict[str, Any]:
    """Run all rounds M_i -> M_{i+1} in a folder; returns the content of summary.json. Raises as the stages do."""
    from stepagent.stages.iterate import iterate as run_rounds

    return run_rounds(config_of(config), Path(folder))


@_function
def push(run: str | Path, to: str, *, model: str | None = None, public: bool = False) -> list[str]:
    """Upload a model of a run (by default the newest good one) with its card, adapter and preferences to the Hugging
    Face Hub's repository `to`, org/name. Returns the addresses. Raises ConfigError, ModelError, DataError, RefusedError
    or BackendError."""
    from stepagent.stages.push import push_command

    return push_command(Path(run), to, model, public=public)


def _version(session: Session, model: str | None) -> ModelVersion:
    return ModelVersion.at(model or session.config.model)
