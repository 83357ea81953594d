"""Progress bars with rate and time left, and the closing tables."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

_follows = os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
console = Console(stderr=True, quiet=_follows)
"""Where progress goes; results go to `output`."""
output = Console(quiet=_follows)


class Bar:
    """One task's bar: `advance` it, and show what is newest in `note`."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def total(self, total: int) -> None:
        """Say how much there is, once it is known."""
        self._progress.update(self._task, total=total)

    def advance(self, done: int | None = None, note: str = "") -> None:
        """Move to `done`, or one further."""
        if done is None:
            self._progress.update(self._task, advance=1, note=note)
        else:
            self._progress.update(self._task, completed=done, note=note)
        task = self._progress.tasks[self._task]
        rate = f"{task.finished_speed or task.speed or 0:.1f}/s"
        self._progress.update(self._task, rate=rate)


@contextmanager
def bar(name: str, total: int | None) -> Iterator[Bar]:
    """A progress bar on standard error."""
    with Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        refresh_per_second=2,  # drawing takes milliseconds, and a search wants them
    ) as progress:
        yield Bar(progress, progress.add_task(name, total=total, rate="", note=""))


class Telling:
    """Says what takes time, a line each: again when the words change, every ten seconds when only a number
    does."""

    def __init__(self) -> None:
        self._words = ""
        self._last = 0.0

    def __call__(self, text: str) -> None:
        words = re.sub(r"\d+", "", text)
        now = time.monotonic()
        if words != self._words or now - self._last >= 10:
            console.print(text, style="dim", highlight=False, soft_wrap=True)
            self._words, self._last = words, now


def table(title: str, rows: Mapping[str, object]) -> None:
    """A closing table of names and figures."""
    shown = Table(title=title, title_justify="left", show_header=False)
    shown.add_column(overflow="fold")
    shown.add_column(justify="right", no_wrap=True)
    for name, value in rows.items():
        shown.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    output.print(shown)


def warn(warnings: Iterable[str]) -> None:
    """Say what a stage found worrying."""
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
