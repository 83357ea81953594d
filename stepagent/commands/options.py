"""Arguments and options that several commands take."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def _print_version(requested: bool) -> None:
    if requested:
        Console().print(f"stepagent {metadata.version('stepagent')}", highlight=False)
        raise typer.Exit


ConfigPath = Annotated[Path, typer.Argument(help="YAML config; the README shows one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: --set search.width=4 (repeatable)."),
]
Model = Annotated[str | None, typer.Option(help="Model folder or hub id (default: the config's model).")]
Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
]
