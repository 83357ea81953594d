"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[Path, typer.Argument(help="YAML config; the README shows one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: --set search.width=4 (repeatable)."),
]
Model = Annotated[str | None, typer.Option(help="Model folder or hub id (default: the config's model).")]
