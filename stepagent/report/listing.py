"""Lists the trees of a folder in print, and finds those that a filter lets through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from rich.text import Text

from stepagent.console import visible
from stepagent.errors import ConfigError, DataError
from stepagent.report.folder import ReportFolder, TreeFile
from stepagent.report.reading import tree_at
from stepagent.report.references import references_of
from stepagent.report.tree_facts import FILTERS, TreeFacts, count_trees
from stepagent.tree import StepTree

_SHOWN = 60  # characters of a question


def matching_trees(run: Path, filters: Sequence[str]) -> list[tuple[TreeFile, TreeFacts]]:
    """Return the trees of a folder or a file that pass every filter of `filters`, in the order of the files. Raises
    ConfigError for an unknown filter, DataError for a folder without trees."""
    for name in filters:
        if name not in FILTERS:
            near = get_close_matches(name, FILTERS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"filters: {', '.join(FILTERS)}"
            raise ConfigError(f"--where {name}: no such filter; {hint}")
    folder = ReportFolder.open(run.parent if run.is_file() else run)
    files = (
        [TreeFile(run, run.name, "", "")] if run.is_file() else [file for file in folder.tree_files() if file.browsed]
    )
    _, facts = count_trees(files, references_of(folder), folder.gaps)
    if not facts:
        raise DataError(f"{run}: no trees here; give the folder of a run or of a search")
    return [(files[tree.file], tree) for tree in facts if tree.flags.issuperset(filters)]


def listed(run: Path, filters: Sequence[str]) -> Iterator[Text]:
    """Return a line for each tree that passes every filter of `filters`, then their number. Raises as `matching_trees`
    does."""
    trees = matching_trees(run, filters)
    widths = [max((len(visible(text)) for text in column), default=0) for column in _columns(trees)]
    for file, tree in trees:
        question = visible(tree.problem[1]).partition("\n")[0]
        cells = zip((_place(file), visible(tree.problem[0])), widths, strict=True)
        flags = ", ".join(FILTERS[name] for name in FILTERS if name in tree.flags)
        line = Text("  ".join(f"{cell:<{width}}" for cell, width in cells))
        line.append(f"  {question[:_SHOWN]}{'…' if len(question) > _SHOWN else ''}")
        line.append(f"  {flags}", style="yellow")
        yield line
    yield Text(f"{len(trees):,} trees; stepagent show {run} --problem ID prints one", style="dim")


def first_match(run: Path, filters: Sequence[str]) -> StepTree:
    """Return the first tree that passes every filter of `filters`. Raises DataError if none does."""
    for file, facts in matching_trees(run, filters):
        if tree := tree_at(file.path, facts.position):
            return tree
    raise DataError(f"{run}: no tree passes {' and '.join(filters)}")


def _columns(trees: Sequence[tuple[TreeFile, TreeFacts]]) -> list[list[str]]:
    return [[_place(file) for file, _ in trees], [tree.problem[0] for _, tree in trees]]


def _place(file: TreeFile) -> str:
    return f"{file.place}, {file.model}" if file.model else file.place
