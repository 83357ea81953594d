"""`stepagent report` and `stepagent show`: looking at the results of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stepagent.errors import ConfigError


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, a round, a search or an evaluation.")],
    out: Annotated[Path | None, typer.Option(help="File to write (default: report.html in the folder).")] = None,
) -> None:
    """Write one HTML file with everything about a run: figures, plots, cost, trees with every vote."""
    from stepagent.report.page import write_report

    Console().print(f"report: {write_report(run, out)}", highlight=False, markup=False, soft_wrap=True)


def view(
    run: Annotated[Path, typer.Argument(help="The folder of a run, a round, a search or an evaluation.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1 (default: a free one).")] = 0,
) -> None:
    """Show the report on 127.0.0.1 while the run goes on, with every tree, until Ctrl-C; it only reads."""
    from stepagent.report.view import view

    view(run, port)


def show(
    run: Annotated[Path, typer.Argument(help="A run's folder, a round's folder or a trees.jsonl.")],
    problem: Annotated[str | None, typer.Option(help="Problem id (default: the first tree with a pair).")] = None,
    replies: Annotated[bool, typer.Option(help="Also print the judge's replies.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the trees, a line each, instead of one tree.")] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="Only trees that are: wrong, disagree (positions), no_signal, rolled_back, low_margin, longest, "
            "failed, changed (between models); repeatable.",
        ),
    ] = None,
) -> None:
    """Print the step tree of one problem, or list the trees."""
    from stepagent.report.listing import first_match, listed
    from stepagent.report.show import find_tree, render_tree

    if problem is not None and (listing or filters):
        raise ConfigError("show: --problem names one tree; leave out --list and --where")
    console = Console()
    if listing:
        for line in listed(run, filters or ()):
            console.print(line, soft_wrap=True)
    else:
        console.print(render_tree(first_match(run, filters) if filters else find_tree(run, problem), replies))
