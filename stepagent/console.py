"""The terminal: progress bars with rate and time left, closing tables, warnings. Plain lines in a log file.

Text that a model or a server wrote goes through `visible` before it is printed.
"""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_follows = os.environ.get("RANK", "0") != "0"  # of several processes only the first one speaks
console = Console(stderr=True, quiet=_follows, force_jupyter=False)  # in a notebook rich would ignore `file`
"""Progress and warnings."""
output = Console(quiet=_follows, force_jupyter=False)
"""Results."""

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls, escapes, marks that turn the direction of text, tags, half characters; not the line feed and the tab. The
joiners U+200C and U+200D stay, since scripts and emoji need them."""

_terminal_claimed = False
_one_line = False  # whether a table is printed as one line: see `closing_table_only`

_SHOW_SECONDS = 0.1  # between two updates of a bar
_ALIVE_SECONDS = 1.0  # between two updates of a bar that does not advance
_LINE_SECONDS = 5.0  # between two lines of progress in a log file
_QUICK_SECONDS = 2.0  # what takes less leaves no line


class _LogLines(io.TextIOBase):
    """A file whose lines go to the logger `stepagent`."""

    def __init__(self) -> None:
        self._begun = ""

    def write(self, text: str) -> int:
        """Log the lines that this text ends."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                logging.getLogger("stepagent").info(line.rstrip())
        return len(text)


def claim_terminal() -> None:
    """Let all that follows speak to the terminal: this process is a command."""
    global _terminal_claimed
    _terminal_claimed = True


@contextmanager
def embedded() -> Iterator[None]:
    """Context in which all that would be printed goes to the logger `stepagent`, unless this process is a command:
    results and progress as infos, warnings as warnings."""
    if _terminal_claimed:
        yield
        return
    console.file = output.file = _LogLines()  # type: ignore[assignment]
    try:
        yield
    finally:
        console.file = output.file = None  # type: ignore[assignment]  # its own stream again


def visible(text: str) -> str:
    """Return a text whose every control character is seen instead of obeyed: ESC as ␛, a mark that turns the direction
    of text as ⟨U+202E⟩. A terminal or a page that shows the text keeps its colours, its title and its order."""
    return _UNSEEN.sub(_shown, text.replace("\r\n", "\n"))


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's pictures of these controls
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


class Bar:
    """The progress of one task: `advance` it, with the newest figures as `note`; or `figures` returns them, so that
    they move while nothing is finished."""

    def __init__(
        self, name: str, total: int | None, progress: Progress, *, figures: Callable[[], str] | None = None
    ) -> None:
        self._name = name
        self._progress = progress
        self._figures = figures
        self._lock = threading.Lock()  # `show` is called by the thread that keeps a long wait alive, too
        self._task = progress.add_task(name, total=total, rate="", note="")
        self._completed, self._note = 0, ""
        self._begin = self._printed = time.monotonic()
        self._shown = 0.0

    def total(self, total: int) -> None:
        """Set the total, once it is known."""
        self._progress.update(self._task, total=total)

    def advance(self, completed: int | None = None, note: str = "") -> None:
        """Move to `completed`, or one further."""
        self._completed = self._completed + 1 if completed is None else completed
        self._note = visible(note)
        # an update costs 0.1 ms, as much as a row of a file
        if time.monotonic() - self._shown >= _SHOW_SECONDS:
            self.show()

    def show(self) -> None:
        """Draw the newest state; in a log file, print a line if the last one is old."""
        with self._lock:
            self._show()

    def _show(self) -> None:
        self._shown = moment = time.monotonic()
        if self._figures:
            self._note = visible(self._figures())
        self._progress.update(self._task, completed=self._completed, note=self._note)
        task = self._progress.tasks[self._task]
        rate = _rate(task.finished_speed or task.speed or 0.0)
        self._progress.update(self._task, rate=rate)
        if not console.is_terminal and moment - self._printed >= _LINE_SECONDS:
            self._printed = moment
            self._print(rate)

    def close(self) -> None:
        """Print what was done; nothing where it took less than two seconds."""
        seconds = time.monotonic() - self._begin
        if seconds >= _QUICK_SECONDS:
            self._note = visible(self._figures()) if self._figures else self._note
            if _one_line:  # the stage's own line follows, with its figures
                self._note = ""
            self._print(f"{seconds:.0f} s")

    def _print(self, pace: str) -> None:
        total = self._progress.tasks[self._task].total
        of = "" if total is None else f" of {total:.0f}"
        line = ", ".join(filter(None, (f"{self._name}: {self._completed}{of}", pace, self._note)))
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


class _Board(Progress):
    """A bar with its rate and the time left, and the newest figures in the line below, so that all of it fits into 80
    columns."""

    @classmethod
    def get_default_columns(cls) -> tuple[TextColumn | BarColumn | MofNCompleteColumn | TimeRemainingColumn, ...]:
        """Return the columns of the first line."""
        return (
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return both lines of every task."""
        for task in self.tasks:
            note = Text(f"  {task.fields['note']}", style="dim", no_wrap=True, overflow="ellipsis")
            yield Group(self.make_tasks_table([task]), *[note] * bool(task.fields["note"]))


def _rate(speed: float) -> str:
    """Return the speed of a task (items a second) as text; of a slow one, the seconds of an item. "" while it is 0."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 0.5 else f"{1 / speed:.1f} s each"


@contextmanager
def bar(name: str, total: int | None, figures: Callable[[], str] | None = None) -> Iterator[Bar]:
    """Return a progress bar on standard error, which gives way to one line when the work is done; where that is no
    terminal, a plain line every few seconds, also while nothing is finished. `figures`: see Bar; it is called from
    another thread."""
    # drawing takes milliseconds, and a search wants them
    with _Board(console=console, refresh_per_second=2, transient=True, disable=not console.is_terminal) as progress:
        newest = Bar(name, total, progress, figures=figures)
        over = threading.Event()
        thread = threading.Thread(target=_keep_alive, args=(newest, over), daemon=True)
        thread.start()
        try:
            yield newest
        finally:
            over.set()
            thread.join()
            newest.show()
            newest.close()


def _keep_alive(progress: Bar, over: threading.Event) -> None:
    """Show a bar's newest state every second until the work is over: the first tree of a search may take minutes."""
    while not over.wait(_ALIVE_SECONDS):
        progress.show()


class Ticker:
    """Tells of long waits, a line each: again when the words change, every ten seconds when only a number does."""

    def __init__(self) -> None:
        self._words = ""
        self._printed = 0.0

    def __call__(self, text: str) -> None:
        """Print `text` unless it was printed a moment ago."""
        words = re.sub(r"\d+", "", text)
        moment = time.monotonic()
        if words != self._words or moment - self._printed >= 10:
            console.print(visible(text), style="dim", highlight=False, markup=False, soft_wrap=True)
            self._words, self._printed = words, moment


@contextmanager
def closing_table_only() -> Iterator[None]:
    """Context of a command with many stages: a stage prints one line instead of its table, since the command closes
    with a table of its own and a report that holds the rest."""
    global _one_line
    before, _one_line = _one_line, True
    try:
        yield
    finally:
        _one_line = before


def table(title: str, rows: Mapping[str, object], brief: Sequence[str] = ()) -> None:
    """Print a closing table of names and figures; within `closing_table_only`, one line with the figures named in
    `brief`."""
    if _one_line:
        figures = ", ".join(f"{name.strip()} {_figure(rows[name])}" for name in brief if name in rows)
        console.print(f"{visible(title)}: {figures or 'done'}", highlight=False, markup=False, soft_wrap=True)
        return
    grid = Table(title=Text(visible(title)), title_justify="left", show_header=False)
    # names stay whole; a long value goes on in the next line
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", overflow="fold")
    for name, value in rows.items():
        grid.add_row(Text(visible(name)), Text(_figure(value)))
    output.print(grid)


def _figure(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"  # NaN: there was nothing to count
    return visible(str(value))


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as text, such as 12.3%; a dash where there was nothing to count."""
    return "–" if share is None else f"{share:.1%}"


def warn(warnings: Iterable[str]) -> None:
    """Print a stage's warnings."""
    for warning in warnings:
        if isinstance(console.file, _LogLines):
            logging.getLogger("stepagent").warning("%s", visible(warning))
            continue
        console.print(f"warning: {visible(warning)}", style="yellow", markup=False, soft_wrap=True)


def already_done(folder: object) -> None:
    """Say that a command found its results in place."""
    output.print(f"{folder}: already done, from the same files and settings", soft_wrap=True)
