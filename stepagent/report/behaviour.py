"""How a search and its judge behaved, round by round: agreement, biases, lengths, drift, training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepagent.preferences import PAIR
from stepagent.report.folder import ReportFolder, TreeFile
from stepagent.report.reading import Gaps, typed_file, typed_rows
from stepagent.report.shapes import DeploymentRecord, TrainingFigures
from stepagent.report.tree_facts import TreeCounts


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The figures of one file of trees, as texts by name."""

    place: str
    model: str
    counts: TreeCounts
    figures: dict[str, str]


def behaviours(files: Sequence[TreeFile], counts: Sequence[TreeCounts]) -> list[Behaviour]:
    """Return the behaviour in every judged search."""
    return [
        Behaviour(file.place, file.model, count, _figures(count))
        for file, count in zip(files, counts, strict=True)
        if file.browsed and count.trees
    ]


def _figures(counts: TreeCounts) -> dict[str, str]:
    steps, ended = sum(length * number for length, number in counts.lengths.items()), counts.lengths.total()
    margins = sorted(counts.margins)
    figures = {
        "trees": f"{counts.trees:,}",
        "levels": f"{counts.levels:,}",
        "pairs": f"{counts.pairs:,}",
        "votes": f"{counts.judging.votes:,}",
        **{name: str(figure) for name, figure in counts.judging.figures().items()},
    }
    if margins:
        figures["median margin"] = f"{margins[len(margins) // 2]:.2f}"
    if ended:
        figures["solutions that end"] = f"{100 * ended / counts.trees:.1f}%"
        figures["steps a solution"] = f"{steps / ended:.2f}"
    if steps and counts.tokens:
        figures["tokens a step"] = f"{counts.tokens / steps:.2f}"
    return figures


@dataclass(frozen=True, slots=True)
class Turn:
    """One round on the circle: the numbers on its arrows. `reasons` say why levels made no pair, `proof` how the
    model's deployment was proven; `steps` are optimizer steps."""

    number: int
    model: str
    trained: str
    counts: TreeCounts
    reasons: list[tuple[str, int]]
    training: TrainingFigures | None
    deployment: str


def turns(folder: ReportFolder, counts: Mapping[Path, TreeCounts]) -> list[Turn]:
    """Return the rounds, as far as they have come."""
    return [_turn(folder, path, counts.get(path / "trees.jsonl", TreeCounts())) for path in folder.rounds()]


def _turn(folder: ReportFolder, path: Path, counts: TreeCounts) -> Turn:
    number = int(path.name[6:])
    training = typed_file(path / "optimize.json", TrainingFigures, folder.gaps)
    reasons = [(reason, count) for reason, count in counts.outcomes.most_common() if reason != PAIR]
    trained = f"M_{number + 1}"
    return Turn(
        number=number,
        model=f"M_{number}",
        trained=trained,
        counts=counts,
        reasons=reasons,
        training=training,
        deployment=_deployment(folder, trained),
    )


def _deployment(folder: ReportFolder, model: str) -> str:
    """Return a sentence on where the model of a round answers, and how that was proven."""
    if folder.config.backend.kind == "transformers":
        return "loaded in the run's own process; nothing to deploy"
    file = folder.path / "server" / "deployments.jsonl"
    records = typed_rows(file, DeploymentRecord, folder.gaps) if file.is_file() else ()
    proven = [record for record in records if f"M_{record.version.index}" == model]
    if proven:
        record = proven[-1]
        nats = "" if record.proof.to_new is None else f", {record.proof.to_new:.2g} nats a token from it"
        return f"proven on the server by {record.method}: {record.proof.outcome}{nats}"
    return "not deployed"


def training_curves(folder: ReportFolder) -> dict[str, list[dict[str, float]]]:
    """Return the optimizer steps of each training, by the model that came out. A training that was killed and went on
    wrote some steps twice: the last ones count."""
    curves = {}
    for model, path in folder.training_folders():
        steps: list[dict[str, float]] = []
        for row in typed_rows(path / "training.jsonl", dict[str, float | None], folder.gaps):
            numbers = {key: value for key, value in row.items() if value is not None and math.isfinite(value)}
            if {"step", "steps"} <= numbers.keys():
                while steps and steps[-1]["step"] >= numbers["step"]:
                    steps.pop()
                steps.append(numbers)
        if steps:
            curves[model if "margin" in steps[-1] else f"{model} (SFT)"] = steps
    return curves


def watched(folder: ReportFolder) -> dict[str, dict[str, float | None]]:
    """Return the figures by which drift is measured, by model."""
    files = [file for file in folder.tree_files() if file.stage.startswith("watch: ")]
    figures = {file.model: _watched_figures(file.path.with_suffix(".json"), folder.gaps) for file in files}
    return {model: row for model, row in figures.items() if row}


def _watched_figures(path: Path, gaps: Gaps) -> dict[str, float | None] | None:
    return typed_file(path, dict[str, float | None], gaps)
