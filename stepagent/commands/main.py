"""The command line: one short function per command, each a call to a stage."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from stepagent.commands.check import check_model, probe, prove
from stepagent.commands.config import config_app, schema
from stepagent.commands.data import data_app
from stepagent.commands.leaving import leave
from stepagent.commands.look import report, show, view
from stepagent.commands.options import ConfigPath, Model, Overrides, Version
from stepagent.commands.publish import push
from stepagent.config.loading import load_config
from stepagent.console import claim_terminal, visible
from stepagent.errors import ConfigError, StepagentError, first_cause
from stepagent.types import ModelVersion

if TYPE_CHECKING:
    from stepagent.assembly.session import Session

app = typer.Typer(
    name="stepagent",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")


@app.callback(help="A language model learns to reason better by judging its own steps.")
def main(version: Version = False) -> None:
    """Take the options that stand before a command."""
    claim_terminal()


class RunnerKind(StrEnum):
    """The place where a search runs."""

    local = "local"
    ray = "ray"


@app.command("init")
def init_command(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for M_1; must not exist yet.")],
    overrides: Overrides = None,
) -> None:
    """Train M_1 from the base model M_0 on instruction (IFT) and evaluation (EFT) fine-tuning data, and measure both
    models on held-out data."""
    settings = load_config(config, overrides or ())
    from stepagent.stages import train

    if settings.init is None:
        raise ConfigError(f"{config}: no 'init' section; it names the IFT and EFT files")
    train.init_command(settings, settings.init, out)


@app.command()
def search(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for trees.jsonl and preferences.jsonl.")],
    model: Model = None,
    problems: Annotated[
        str | None, typer.Option(help="JSON, CSV, TSV, Parquet, hub id or preset (default: the config's).")
    ] = None,
    runner: Annotated[
        RunnerKind, typer.Option(help="The place: in this process, or on the workers of Ray.")
    ] = RunnerKind.local,
    workers: Annotated[int, typer.Option(min=1, help="The number of workers, with --runner ray.")] = 2,
    overrides: Overrides = None,
) -> None:
    """Search step trees and export step preferences; continues the trees that OUT holds already."""
    from stepagent import api

    on_ray = workers if runner is RunnerKind.ray else None
    api.search(load_config(config, overrides or ()), out, model=model, problems=problems, workers=on_ray)


@app.command()
def judge(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for the results; it is continued if it exists.")],
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
    tune: Annotated[
        str | None,
        typer.Option(help="Look for a better judge section on 50 to 200 labelled pairs: file or hub id."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="With --tune: verdicts on pairs that it may cost (default: 2000).")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="With --evaluate and --tune: the number of items to draw by seed.")
    ] = None,
    model: Model = None,
    overrides: Overrides = None,
) -> None:
    """Judge candidates from a file, judge a finished search anew, or measure or tune a judge on labelled data."""
    if len([source for source in (data, trees, labelled, tune) if source is not None]) != 1:
        raise ConfigError("judge: give one of --data, --trees, --evaluate and --tune")
    from stepagent import api

    settings = load_config(config, overrides or ())
    if data is not None:
        api.judge(settings, data, out, model=model)
    elif labelled is not None:
        api.measure_judge(settings, labelled, out, sample=sample, model=model)
    elif tune is not None:
        api.tune_judge(settings, tune, out, budget=budget, sample=sample, model=model)
    elif trees is not None and against is None:
        api.judge_trees(settings, trees, out, model=model)
    elif trees is not None and against is not None:
        from stepagent.stages.compare_judges import compare_judges

        with _session(config, overrides, out) as session, _session(against, overrides, out) as other_session:
            compare_judges(session, other_session, _version(session, model), trees=trees, out=out)


@app.command()
def optimize(
    config: ConfigPath,
    data: Annotated[
        str,
        typer.Option(
            help="preferences.jsonl, or rows of TRL, LLaMA-Factory, Step-DPO: file, folder or hub id[:split]."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the merged model; must not exist yet, but with --compare.")],
    compare: Annotated[
        str | None,
        typer.Option(help="Compare losses instead, or other settings of optimize: sigmoid,likelihood,'ipo beta=0.05'."),
    ] = None,
    model: Model = None,
    overrides: Overrides = None,
) -> None:
    """Train a model on step preferences (step-wise DPO) and merge the adapter, or compare losses at equal step
    tokens."""
    if compare is None:
        from stepagent import api

        api.optimize(load_config(config, overrides or ()), data, out, model=model)
        return
    from stepagent.stages.compare_losses import compare_losses

    with _session(config, overrides, out) as session:
        compare_losses(session, _version(session, model), data, compare, out=out)


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="Folder of a LoRA adapter (adapter_config.json).")],
    out: Annotated[Path, typer.Option(help="Folder for the merged model; must not exist yet.")],
    base: Annotated[str | None, typer.Option(help="Its base: folder or hub id (default: the one it names).")] = None,
) -> None:
    """Merge an adapter into its base, tensor by tensor, and prove that the merged model is the same one."""
    from stepagent.stages.merge import merge_command

    merge_command(adapter, base, out)


@app.command()
def evaluate(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and trees.jsonl.")],
    compare: Annotated[
        str | None,
        typer.Option(help="Compare search strategies instead: greedy,best_of_n,step,beam,dvts,best_first,mcts."),
    ] = None,
    budget: Annotated[int | None, typer.Option(help="With --compare: sampled tokens that a problem may cost.")] = None,
    model: Model = None,
    overrides: Overrides = None,
) -> None:
    """Measure greedy accuracy, judged search and the judge itself on held-out data, or compare strategies."""
    if compare is None:
        from stepagent import api

        api.evaluate(load_config(config, overrides or ()), out, model=model)
        return
    from stepagent.stages.compare_searches import compare_searches

    with _session(config, overrides, out) as session:
        compare_searches(session, _version(session, model), compare, budget=budget, out=out)


@app.command()
def iterate(
    config: ConfigPath,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    overrides: Overrides = None,
) -> None:
    """Run all rounds M_i -> M_{i+1}; started again, a killed run continues."""
    from stepagent import api

    settings = load_config(config, overrides or ())
    api.iterate(settings, runs / settings.name)


@app.command()
def deploy(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    model: Annotated[int | None, typer.Option(help="i of the M_i to deploy (default: the newest).")] = None,
) -> None:
    """Put a run's model on its running vLLM server, and prove that the server serves it."""
    from stepagent.stages.deploy import deploy_command

    deploy_command(run, model)


@app.command()
def serve(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Start the vLLM server of a run with the model it last deployed, proven, until Ctrl-C."""
    from stepagent.stages.deploy import serve_command

    serve_command(run)


@app.command()
def demo(
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    overrides: Overrides = None,
) -> None:
    """Run the whole circle on a laptop: a tiny model learns to add by judging its own steps."""
    from stepagent.demo.run import run_demo

    run_demo(runs / "demo", overrides or ())


app.command("check-model")(check_model)
app.command()(probe)
app.command()(prove)
app.command()(push)
app.command()(report)
app.command()(show)
app.command()(view)
app.command()(schema)


def _session(config: Path, overrides: list[str] | None, out: Path) -> Session:
    from stepagent.assembly.session import Session

    return Session(load_config(config, overrides or ()), out)


def _version(session: Session, model: str | None) -> ModelVersion:
    return ModelVersion.at(model or session.config.model)


def run() -> None:
    """Run the command line: errors a user can mend are one sentence and exit code 2. A request to end (SIGTERM,
    SIGHUP) also ends the processes it started."""
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
            f"error: {visible(str(error))}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except* SystemExit as group:
        first = group.exceptions[0]
        code = first.code if isinstance(first, SystemExit) else 1
        if code == 130:
            Console(stderr=True).print("interrupted: finished work is kept; the same command continues")
            leave(code)
        sys.exit(code)
