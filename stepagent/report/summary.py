"""Closing table and plot of a run, with one row per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_COLUMNS = (
    ("greedy", "greedy_accuracy", "%"),
    ("judged search", "search_accuracy", "%"),
    ("judge right", "judge_accuracy", "%"),
    ("orders agree", "judge_consistency", "%"),
    ("right on own", "own_judge_accuracy", "%"),
    ("pairs", "preferences", ""),
    ("pairs right", "pairs_right", "%"),
    ("steps /path", "steps_per_solution", "."),
    ("tokens /step", "tokens_per_step", "."),
)


def print_summary(summary: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print the table of all models, and write summary.png to `folder` if matplotlib is installed."""
    models = summary["models"]
    if not models:
        return
    title = f"{folder}: {summary['wall_seconds']:.0f} s; shares in %"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for title, _, _ in _COLUMNS:
        table.add_column(title.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for model in models:
        table.add_row(model["name"], *(_shown(model.get(key), kind) for _, key, kind in _COLUMNS))
    console.print(table)
    if summary.get("drifted"):
        console.print(f"drifted: {', '.join(summary['drifted'])}; the last good model is {summary['last_good']}")
    if plot(models, folder / "summary.png"):
        console.print(f"plot: {folder / 'summary.png'}", highlight=False, soft_wrap=True)


def _shown(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return {"%": f"{100 * value:.1f}", ".": f"{value:.1f}", "": f"{value:.0f}"}[kind]


def plot(models: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Write a PNG of the accuracies over the models. Returns False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    names = [model["name"] for model in models]
    for title, key, kind in _COLUMNS:
        points = [(i, 100 * m[key]) for i, m in enumerate(models) if m.get(key) is not None]
        if kind == "%" and points:
            axes.plot(*zip(*points, strict=True), marker="o", label=title)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 102)
    axes.set_ylabel("%")
    axes.set_title("A model that judges its own steps, round by round")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=150)
    return True
