"""`stepagent push`: a run's model where others find it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    to: Annotated[str, typer.Option(help="Repository on the Hub: org/name.")],
    model: Annotated[str | None, typer.Option(help="M_i to push (default: the newest good one).")] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everyone see it (default: private).")] = False,
) -> None:
    """Upload a model of a run to the Hugging Face Hub, with its card, adapter and preferences; the same command goes
    on with an upload that was interrupted."""
    from stepagent.stages.push import push_command

    push_command(run, to, model, public=public)
