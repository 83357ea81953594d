"""`stepagent config` and `stepagent schema`: a config to start from, all faults of one, and all settings there are."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stepagent.commands.options import ConfigPath, Overrides
from stepagent.config import templates
from stepagent.console import table, visible, warn
from stepagent.errors import ConfigError

config_app = typer.Typer(no_args_is_help=True, help="Write a config to start from, and check one.")
_SCHEMA = "stepagent.schema.json"


class Place(StrEnum):
    """The places where a model may run."""

    vllm = "vllm"
    hosted = "hosted"
    laptop = "laptop"


@config_app.command()
def new(
    place: Annotated[Place, typer.Option("--for", help="The place where the model runs.")],
    out: Annotated[Path | None, typer.Option(help="File to write (default: printed).")] = None,
) -> None:
    """Write a commented config that works once its data files are there."""
    text = templates.template(place.value).replace("THIS_FILE", str(out or "config.yaml"))
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists():
        raise ConfigError(f"{out}: exists already; name another file, or remove it first")
    if (out.parent / _SCHEMA).is_file():
        text = f"# yaml-language-server: $schema={_SCHEMA}\n{text}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    Console().print(f"{out}: next, stepagent config check {out}", highlight=False, markup=False, soft_wrap=True)


@config_app.command()
def check(config: ConfigPath, overrides: Overrides = None) -> None:
    """Name everything that is wrong with a config, each with file and line (exit code 2); or else print the work of a
    run and its highest cost. Asks no server and writes nothing."""
    from stepagent.stages.check_config import check_config
    from stepagent.stages.describe_config import describe

    checked, sentences = check_config(config, overrides or ())
    errors = Console(stderr=True)
    for sentence in sentences:
        errors.print(f"error: {visible(sentence)}", style="red", markup=False, highlight=False, soft_wrap=True)
    warn(checked.notes)
    if sentences:
        count = f"{len(sentences)} fault{'s' if len(sentences) > 1 else ''}"
        errors.print(f"{config}: {count}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2)
    table(f"{config}: no faults", describe(checked))


def schema(
    page: Annotated[
        bool, typer.Option("--page", help="Print the reference page docs/settings.md instead, as Markdown.")
    ] = False,
) -> None:
    """Print the JSON Schema of a config file, with which editors complete and check it."""
    from stepagent.assembly.schema import config_schema
    from stepagent.assembly.settings_page import settings_page

    typer.echo(settings_page() if page else json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n", nl=False)
