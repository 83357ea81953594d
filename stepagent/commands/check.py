"""Commands that try what a run would use, a model or its endpoints, and write nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepagent.commands.options import ConfigPath, Model, Overrides
from stepagent.config.loading import load_config
from stepagent.config.settings import OptimizeSettings
from stepagent.errors import ConfigError
from stepagent.types import ModelVersion


def check_model(
    folder: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    config: Annotated[
        Path | None, typer.Option(help="YAML config, whose optimize section says how the model is trained.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Try everything that a run will do with a model, in seconds: load, render, score, train a step, write, read back,
    sample. Prints what will be packed, what LoRA reaches, and the memory that training takes."""
    from stepagent.stages.check_model import check_model_command

    if overrides and config is None:
        raise ConfigError("check-model: --set changes a config; give one with --config")
    check_model_command(folder, load_config(config, overrides or ()).optimize if config else OptimizeSettings())


def probe(config: ConfigPath, model: Model = None, overrides: Overrides = None) -> None:
    """Ask the config's endpoints what they can do, with a few short requests: how a half-written solution is continued,
    which parameters are taken, what one request costs."""
    from stepagent.assembly.session import Session
    from stepagent.stages.probe_endpoints import probe_command

    settings = load_config(config, overrides or ())
    with Session(settings, Path()) as session:
        probe_command(session, ModelVersion.at(model or settings.model))


def prove(
    url: Annotated[str, typer.Argument(help="Base URL of a vLLM server, ending in /v1.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the model that it should serve.")],
    against: Annotated[Path | None, typer.Option(help="Folder of the model that it may still serve instead.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="preferences.jsonl that the model learned from (default: made-up questions).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Served name (default: the server's only one).")] = None,
) -> None:
    """Prove by log-probabilities that a server serves a model, whoever trained it. Exit code 2 if it serves another."""
    from stepagent.stages.prove import prove_command

    prove_command(url, folder, against, data=data, name=name)
