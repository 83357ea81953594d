"""The command line: one short function per command, each a call to a stage."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stepagent.commands.data import data_app
from stepagent.commands.options import ConfigPath, Model, Overrides
from stepagent.config.loading import load_config
from stepagent.errors import ConfigError, StepagentError, first_cause

app = typer.Typer(
    name="stepagent",
    help="A language model learns to reason better by judging its own steps.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


app.add_typer(data_app, name="data")


class Runner(StrEnum):
    """Where a search runs."""

    local = "local"
    ray = "ray"


@app.command("init")
def init_command(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for M_1; must not exist yet.")],
    overrides: Overrides = None,
) -> None:
    """Train M_1 from the base model on IFT and EFT data (SFT), and measure both models on held-out data."""
    settings = load_config(config, overrides or ())
    from stepagent.stages.training_alone_tmp import init_alone

    if settings.init is None:
        raise ConfigError(f"{config}: no 'init' section; it names the IFT and EFT files")
    init_alone(settings, settings.init, out)


@app.command()
def search(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for trees.jsonl and preferences.jsonl.")],
    model: Model = None,
    problems: Annotated[
        Path | None, typer.Option(help="JSONL, CSV, Parquet, hub id or preset (default: the config's).")
    ] = None,
    runner: Annotated[
        Runner, typer.Option(help="Where: in this process, or on the workers of Ray.")
    ] = Runner.local,
    workers: Annotated[int, typer.Option(min=1, help="With --runner ray: how many.")] = 2,
    overrides: Overrides = None,
) -> None:
    """Search step trees and export step preferences; continues what OUT already holds."""
    settings = load_config(config, overrides or ())
    from stepagent.stages.alone_tmp import search_alone

    on = workers if runner is Runner.ray else None
    search_alone(settings, model or settings.model, problems or settings.problems, out, on)


@app.command()
def judge(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for the results; what it holds is continued.")],
    data: Annotated[
        Path | None, typer.Option(help="Judge rows {question, prefix, candidates, id?} into verdicts.jsonl.")
    ] = None,
    trees: Annotated[
        Path | None, typer.Option(help="Judge the trees.jsonl of a search anew; writes new preferences.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="With --trees: another config, whose judge is compared with this one.")
    ] = None,
    labelled: Annotated[
        str | None,
        typer.Option(
            "--evaluate",
            help="Measure the judge on labelled pairs, PRM800K, Math-Shepherd, ProcessBench: file or hub id.",
        ),
    ] = None,
    sample: Annotated[int | None, typer.Option(help="With --evaluate: so many items, by seed.")] = None,
    model: Model = None,
    overrides: Overrides = None,
) -> None:
    """Judge candidates from a file, judge a finished search anew, or measure a judge on labelled data."""
    settings = load_config(config, overrides or ())
    wanted = [name for name in (data, trees, labelled) if name is not None]
    if len(wanted) != 1:
        raise ConfigError("judge: give one of --data, --trees and --evaluate")
    from stepagent.stages import alone_tmp as alone

    asked = model or settings.model
    if data is not None:
        alone.judge_alone(settings, asked, data, out)
    elif labelled is not None:
        alone.quality_alone(settings, asked, labelled, sample, out)
    elif trees is not None:
        other = load_config(against, overrides or ()) if against else None
        alone.rejudge_alone(settings, asked, trees, out, other)


@app.command()
def optimize(
    config: ConfigPath,
    data: Annotated[
        str,
        typer.Option(
            help="preferences.jsonl, or rows of TRL, LLaMA-Factory, Step-DPO: file, folder or hub id[:split]."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the merged model; must not exist yet.")],
    model: Model = None,
    overrides: Overrides = None,
) -> None:
    """Train a model on step preferences (step-wise DPO) and merge the adapter."""
    settings = load_config(config, overrides or ())
    from stepagent.stages.training_alone_tmp import optimize_alone

    optimize_alone(settings, model or settings.model, data, out)


@app.command()
def evaluate(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and trees.jsonl.")],
    compare: Annotated[
        str | None,
        typer.Option(
            help="Compare search strategies instead: greedy,best_of_n,step,beam,dvts,best_first,mcts."
        ),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="With --compare: sampled tokens that a problem may cost.")
    ] = None,
    model: Model = None,
    overrides: Overrides = None,
) -> None:
    """Measure greedy accuracy, judged search and the judge itself on held-out data, or compare strategies."""
    settings = load_config(config, overrides or ())
    from stepagent.stages import alone_tmp as alone

    if compare is not None:
        alone.compare_alone(settings, model or settings.model, compare, budget, out)
    else:
        alone.evaluate_alone(settings, model or settings.model, out)


@app.command()
def iterate(
    config: ConfigPath,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    overrides: Overrides = None,
) -> None:
    """Run all rounds M_i -> M_{i+1}; started again, a killed run continues."""
    settings = load_config(config, overrides or ())
    from stepagent.stages.iterate import iterate

    iterate(settings, runs / settings.name)


@app.command()
def deploy(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    model: Annotated[int | None, typer.Option(help="i of the M_i to deploy (default: the newest).")] = None,
) -> None:
    """Put a run's model on its running vLLM server, and prove that the server serves it."""
    from stepagent.stages.deploy import deploy_run

    deploy_run(run, model)


@app.command()
def serve(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Start the vLLM server of a run with what it last deployed, proven, until Ctrl-C."""
    from stepagent.stages.deploy import serve_run

    serve_run(run)


@app.command()
def demo(
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    overrides: Overrides = None,
) -> None:
    """The whole circle on a laptop: a tiny model learns to add by judging its own steps."""
    from stepagent.demo.run import run_demo

    run_demo(runs / "demo", overrides or ())


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run's folder, a round's folder or a trees.jsonl.")],
    problem: Annotated[
        str | None, typer.Option(help="Problem id (default: the first tree with a pair).")
    ] = None,
    replies: Annotated[bool, typer.Option(help="Also print what the judge wrote.")] = False,
) -> None:
    """Print the step tree of one problem."""
    from stepagent.report.show import find_tree, render_tree

    Console().print(render_tree(find_tree(run, problem), replies))


def run() -> None:
    """The installed command: errors a user can mend are one sentence and exit code 2. A request to end
    (SIGTERM, SIGHUP) ends what it started, too."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    try:
        app()
    except* (StepagentError, OSError) as group:
        error = first_cause(group)
        if isinstance(error, OSError) and error.filename:
            error = OSError(f"{error.filename}: {error.strerror}")
        Console(stderr=True).print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except* SystemExit as group:
        first = group.exceptions[0]
        code = first.code if isinstance(first, SystemExit) else 1
        if code == 130:
            Console(stderr=True).print("interrupted: what is finished is kept; the same command continues")
        sys.exit(code)
