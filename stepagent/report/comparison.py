"""Plots of comparisons: strategies by accuracy against the cost of a problem, losses against the way they went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot(points: Sequence[Mapping[str, Any]], budget: int, path: Path) -> bool:
    """Write a PNG of accuracy with 95 % intervals against sampled tokens a problem (log scale), with one line
    for each strategy. Returns False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(point["strategy"] for point in points):
        line = sorted((p for p in points if p["strategy"] == name), key=lambda point: point["tokens"])
        accuracy = [100 * point["accuracy"] for point in line]
        errors = [
            [100 * (point["accuracy"] - point["low"]) for point in line],
            [100 * (point["high"] - point["accuracy"]) for point in line],
        ]
        tokens = [point["tokens"] for point in line]
        axes.errorbar(tokens, accuracy, yerr=errors, marker="o", capsize=3, label=name)
    axes.axvline(budget, color="gray", linestyle="--", linewidth=1, label=f"budget {budget:,}")
    axes.set_xscale("log")
    axes.set_xlabel("sampled tokens a problem, the judge's included")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    return True


def plot_losses(arms: Sequence[Mapping[str, Any]], start: float, path: Path) -> bool:
    """Write a PNG of each arm's held-out accuracy, with the 95 % interval of its paired gain over `start`, against its
    KL to the start model. Returns False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm in arms:
        if arm["kl"] is None:
            continue
        accuracy = 100 * (start + arm["gain"])
        bounds = (100 * (start + arm["low"]), 100 * (start + arm["high"]))
        errors = [[max(0.0, accuracy - bounds[0])], [max(0.0, bounds[1] - accuracy)]]
        axes.errorbar([arm["kl"]], [accuracy], yerr=errors, marker="o", capsize=3, label=arm["name"])
    axes.axhline(100 * start, color="gray", linestyle="--", linewidth=1, label="start")
    axes.set_xlabel("KL to the start model, nats a token")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    return True
