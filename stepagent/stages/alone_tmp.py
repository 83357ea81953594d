"""Stages run alone from the command line: each in a folder of its own, whose manifest says what its
results were made from, so that they are continued only by the same work."""

from __future__ import annotations

from pathlib import Path

from stepagent.assembly.components import make_components
from stepagent.assembly.identity import SEARCH_KEYS, identity
from stepagent.assembly.session import Resources
from stepagent.config.settings import Config, ProblemSettings
from stepagent.console import output
from stepagent.errors import ConfigError
from stepagent.files.jsonl import read_rows
from stepagent.files.labelled_rows import read_labelled
from stepagent.files.problems import check_problems, iter_problems, load_held_out, problem_file
from stepagent.files.rows import load_candidates
from stepagent.files.runs import RunFolder
from stepagent.search.runner import search_all
from stepagent.stages.compare_judges import compare_stage, rejudge_stage
from stepagent.stages.compare_searches import check_names
from stepagent.stages.compare_searches import compare_stage as compare_strategies
from stepagent.stages.evaluate import evaluate_stage, evaluation_inputs, evaluation_outputs
from stepagent.stages.judge import judge_stage
from stepagent.stages.measure_judge import quality_stage
from stepagent.stages.search import Search, search_stage
from stepagent.tree import StepTree


def search_alone(
    config: Config, model: str, source: Path | ProblemSettings, out: Path, workers: int | None = None
) -> None:
    """Search the problems of `source` with `model` into `out`/trees.jsonl and `out`/preferences.jsonl; on so
    many `workers` of a Ray cluster, if they are given."""
    problems = problem_file(source, out)
    count = check_problems(problems)
    config = config.model_copy(update={"problems": ProblemSettings(path=str(problems))})
    trees, preferences = out / "trees.jsonl", out / "preferences.jsonl"
    with Resources(config, out) as resources:
        components = make_components(config, model, resources)
        search = _on_ray(config, model, out, workers, resources) if workers else search_all
        ran = RunFolder(out).stage(
            "search",
            {"model": Path(model), "problems": problems},
            {"trees": trees, "preferences": preferences},
            identity(config, *SEARCH_KEYS),
            lambda: search_stage(
                components, iter_problems(problems), count, trees, preferences, config, 1, search
            ),
        )
    _say(ran, out)


def _on_ray(config: Config, model: str, out: Path, workers: int, resources: Resources) -> Search:
    try:
        from stepagent.stages.search_on_ray import ray_search
    except ImportError:
        raise ConfigError("--runner ray: Ray is not installed; pip install 'stepagent[ray]'") from None
    return ray_search(config, model, out, workers, resources.budget)


def judge_alone(config: Config, model: str, data: Path, out: Path) -> None:
    """Judge the rows of `data` into `out`/verdicts.jsonl."""
    load_candidates(data)
    verdicts = out / "verdicts.jsonl"
    with Resources(config, out) as resources:
        components = make_components(config, model, resources)
        ran = RunFolder(out).stage(
            "judge",
            {"model": Path(model), "data": data},
            {"verdicts": verdicts},
            identity(config, "backend", "judge", "seed"),
            lambda: judge_stage(components, config, data, verdicts),
        )
    _say(ran, out)


def rejudge_alone(config: Config, model: str, trees: Path, out: Path, other: Config | None) -> None:
    """Judge `trees` anew into `out`; with another config also into `out`/against, and compare the two."""
    if trees.resolve() == (out / "trees.jsonl").resolve():
        raise ConfigError(f"--out {out}: it holds the very trees; choose another folder")

    def judged(by: Config, asked: str, folder: Path) -> None:
        with Resources(by, out) as resources:
            components = make_components(by, asked, resources)
            RunFolder(folder).stage(
                "judge again",
                {"model": Path(asked), "trees": trees},
                {"trees": folder / "trees.jsonl", "preferences": folder / "preferences.jsonl"},
                identity(by, "backend", "judge", "seed"),
                lambda: rejudge_stage(components, by, trees, folder),
            )

    judged(config, model, out)
    if other is not None:
        against = out / "against"
        judged(other, other.model, against)
        one, two = (read_rows(folder / "trees.jsonl", StepTree) for folder in (out, against))
        compare_stage((config.judge.kind, f"{other.judge.kind} (against)"), one, two, out)


def quality_alone(config: Config, model: str, data: str, sample: int | None, out: Path) -> None:
    """Measure the judge on labelled data into `out`/metrics.json and items.jsonl."""
    items = read_labelled(data, sample, config.seed)
    with Resources(config, out) as resources:
        components = make_components(config, model, resources)
        ran = RunFolder(out).stage(
            "judge quality",
            {"model": Path(model), "data": Path(data)},
            {"items": out / "items.jsonl", "metrics": out / "metrics.json"},
            [*identity(config, "backend", "judge", "seed"), sample],
            lambda: quality_stage(components, config, items, data, out),
        )
    _say(ran, out)


def evaluate_alone(config: Config, model: str, out: Path) -> None:
    """Measure `model` into `out`/metrics.json."""
    wanted = config.evaluate
    if wanted is None:
        raise ConfigError("no 'evaluate' section in the config; it names held-out problems and pairs")
    problems = problem_file(wanted.problems, out)
    load_held_out(problems)
    with Resources(config, out) as resources:
        components = make_components(config, model, resources)
        ran = RunFolder(out).stage(
            "evaluate",
            evaluation_inputs(model, problems, wanted),
            evaluation_outputs(out),
            identity(config, *SEARCH_KEYS, "evaluate"),
            lambda: evaluate_stage(components, config, wanted, problems, model, out),
        )
    _say(ran, out)


def compare_alone(config: Config, model: str, names: str, budget: int | None, out: Path) -> None:
    """Compare strategies at equal cost into `out`/compare.json and compare.png."""
    wanted = config.evaluate
    if wanted is None:
        raise ConfigError("no 'evaluate' section in the config; it names held-out problems")
    if budget is None or budget < 1:
        raise ConfigError("--budget: say how many sampled tokens a problem may cost, such as --budget 4000")
    listed = [name.strip() for name in names.split(",") if name.strip()]
    check_names(config, listed)
    source = problem_file(wanted.problems, out)
    problems = load_held_out(source)
    with Resources(config, out) as resources:
        components = make_components(config, model, resources)
        compare_strategies(components, config, model, listed, budget, problems, source, out)


def _say(ran: bool, out: Path) -> None:
    if not ran:
        output.print(f"{out}: already done, from the same files and settings")
