"""The report: one HTML file that holds all it needs, asks nothing of a network and trusts nothing that a model wrote.

Every text goes through `visible` and Jinja's escaping, or through JSON that the script puts into the page as text. The
policy in the page's head allows its own style and script, known by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stepagent.console import output, visible, warn
from stepagent.files.jsonl import write_atomic
from stepagent.report import plots
from stepagent.report.again import recipe_of
from stepagent.report.behaviour import behaviours, training_curves, turns, watched
from stepagent.report.costs import run_costs
from stepagent.report.folder import ReportFolder, TreeFile
from stepagent.report.headline import headlines, missing
from stepagent.report.reading import typed_file
from stepagent.report.references import references_of
from stepagent.report.results import COLUMNS, gains, model_results
from stepagent.report.shapes import Comparison
from stepagent.report.tree_data import TreeData
from stepagent.report.tree_facts import FILTERS, TreeCounts, TreeFacts, count_trees
from stepagent.report.verdict_errors import judge_records

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Counted:
    """A folder whose trees were all read once."""

    folder: ReportFolder
    files: list[TreeFile]
    counts: list[TreeCounts]
    facts: list[TreeFacts]

    def by_path(self) -> dict[Path, TreeCounts]:
        """Return the counts of each file of trees."""
        return {file.path: count for file, count in zip(self.files, self.counts, strict=True)}


def count_folder(path: Path, *, facts_too: bool = True) -> Counted:
    """Read the trees of a folder once; `facts_too` keeps the facts of each. Raises DataError if there is nothing to
    report."""
    folder = ReportFolder.open(path)
    files = list(folder.tree_files())
    counts, facts = count_trees(files, references_of(folder), folder.gaps, facts_too=facts_too)
    return Counted(folder, files, counts, facts)


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the report of a folder, as far as the run in it has come, to `out` (default: report.html in the folder).
    Returns the file. Raises DataError if there is nothing to report."""
    counted = count_folder(path)
    out = out or counted.folder.path / "report.html"
    write_atomic(out, render(counted))
    return out


def finish_with_report(path: Path) -> None:
    """Write the report at the end of a command and print where it is. A report that cannot be written is a warning: the
    run is done, and its results are on disk."""
    try:
        out = write_report(path)
    except Exception as error:  # noqa: BLE001 (whatever is wrong with a report, the run has succeeded)
        warn([f"{path}: no report could be written ({type(error).__name__}: {error}); stepagent report tries again"])
        return
    output.print(f"report: {out}", highlight=False, markup=False, soft_wrap=True)


def render(counted: Counted) -> str:
    """Return the page."""
    trees = TreeData(counted.files)
    trees.fill(counted.facts)
    return _page(counted, ("draw.js", "list.js"), data=trees.as_json(), tree_count=len(trees.trees))


def render_live(path: Path) -> str:
    """Return the page that asks for its trees one by one. Raises DataError if there is nothing to report."""
    return _page(count_folder(path, facts_too=False), ("draw.js", "live.js"), data=None, tree_count=None)


def _page(counted: Counted, scripts: Sequence[str], *, data: str | None, tree_count: int | None) -> str:
    """Return the page with the trees of `data`, `tree_count` in number, or without any that asks for them."""
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    script = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            **_context(counted),
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script) + ("; connect-src 'self'" if data is None else ""),
            data=None if data is None else Markup(data),
            shown_trees=tree_count,
            all_trees=sum(
                count.trees for file, count in zip(counted.files, counted.counts, strict=True) if file.browsed
            ),
            filter_counts={name: sum(name in tree.flags for tree in counted.facts) for name in FILTERS},
            filters=FILTERS,
        )
    )


def _context(counted: Counted) -> dict[str, Any]:
    folder, files, counts = counted.folder, counted.files, counted.counts
    by_path = counted.by_path()
    results = model_results(folder, by_path)
    rounds = turns(folder, by_path)
    behaviour = behaviours(files, counts)
    records = judge_records(folder)
    comparison = typed_file(folder.path / "compare.json", Comparison, folder.gaps)
    eft = folder.eft()
    steps = gains(results)
    curves = training_curves(folder)
    pictures = _plots(counted, results=results, curves=curves, comparison=comparison)
    return {
        "name": folder.name,
        "path": str(folder.path.resolve()),
        "written": datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "headlines": headlines(results, steps, rounds, behaviour=behaviour, comparison=comparison, records=records),
        "results": results,
        "columns": COLUMNS,
        "gains": steps,
        "turns": rounds,
        "behaviours": behaviour,
        "figure_names": list(dict.fromkeys(name for row in behaviour for name in row.figures)),
        "watched": watched(folder),
        "funnel": (typed_file(eft / "funnel.json", dict[str, Any], folder.gaps) or {}) if eft else {},
        "comparison": comparison,
        "judge_figures": _judge_figures(folder),
        "records": records,
        "costs": run_costs(folder, files, counts),
        "recipe": recipe_of(folder),
        "plots": pictures,
        "missing": [
            *missing(folder, results, rounds, plots=pictures, curves=curves),
            *folder.gaps.sentences(folder.path),
        ],
    }


def _plots(
    counted: Counted, *, results: list[Any], curves: Mapping[str, Any], comparison: Comparison | None
) -> dict[str, list[Markup]]:
    """Return the plots of each section as markup that matplotlib wrote; without matplotlib there are none."""
    places = [
        (f"{file.place}", count) for file, count in zip(counted.files, counted.counts, strict=True) if file.browsed
    ]
    rounds = [pair for pair in places if pair[0].startswith("round")] or places[:1]
    names = plots.spread([place for place, _ in rounds])
    margins = {place: count.margins for place, count in rounds if count.margins and place in names}
    lengths = {place: count.lengths for place, count in rounds if count.lengths and place in names}
    if len({length for counts in lengths.values() for length in counts}) == 1:
        lengths = {}  # all solutions have as many steps: the table says so
    pictures: dict[str, list[str | None]] = {
        "result": [plots.accuracy(results)] if len(results) > 1 else [],
        "rounds": [*([plots.margins(margins)] if margins else []), *([plots.lengths(lengths)] if lengths else [])],
        "training": plots.training(curves),
        "comparison": [plots.strategies(comparison)] if comparison and comparison.points else [],
    }
    return {section: [Markup(svg) for svg in section_plots if svg] for section, section_plots in pictures.items()}


def _judge_figures(folder: ReportFolder) -> dict[str, Any]:
    """Return the table of a judge that was measured on labelled data; empty for other folders."""
    if not (folder.path / "items.jsonl").is_file():
        return {}
    return typed_file(folder.path / "metrics.json", dict[str, Any], folder.gaps) or {}


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters.update(percent=_percent, points=_points, number=_number, seconds=_seconds)
    return environment


def _policy(style: str, script: str) -> str:
    hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _number(value: object) -> str:
    """Return a figure as text: counts with commas, other numbers with four digits, a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
