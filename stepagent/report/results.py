"""The result of a run: each model's figures with their intervals, and the paired differences between models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stepagent.report.folder import ReportFolder
from stepagent.report.reading import typed_file, typed_rows
from stepagent.report.shapes import EvaluationFigures, JudgedItem, Summary, SummaryRow
from stepagent.report.shares import paired_gain, wilson
from stepagent.report.tree_facts import TreeCounts

COLUMNS = {
    "greedy": "solved greedily",
    "search": "solved by judged search",
    "judge": "judge right on labelled pairs",
    "own": "judge right on its own pairs",
    "valid": "valid form",
}
"""The shares of a model, with the words of their columns."""


@dataclass(frozen=True, slots=True)
class Share:
    """`part` of `whole`, with its 95 % interval (Wilson)."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        """The share in [0, 1]."""
        return self.part / self.whole

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of the interval, in [0, 1]."""
        return wilson(self.part, self.whole)


@dataclass(frozen=True, slots=True)
class ModelResult:
    """One model's figures. `solved` are the outcomes of its greedy solutions, problem by problem; `row` tells of the
    pairs it was trained on. `failed_grades` solutions have no mark, the first because of `grade_error`."""

    name: str
    shares: dict[str, Share]
    solved: tuple[bool | None, ...]
    row: SummaryRow
    drift: tuple[str, ...]
    failed_grades: int = 0
    grade_error: str = ""


@dataclass(frozen=True, slots=True)
class Gain:
    """The greedy accuracy of the model `name` minus that of `base`, paired problem by problem; `won` problems were
    solved by the later model alone, `lost` ones by the earlier."""

    name: str
    base: str
    gain: float
    low: float
    high: float
    won: int
    lost: int


def model_results(folder: ReportFolder, trees: Mapping[Path, TreeCounts]) -> list[ModelResult]:
    """Return the figures of every model that was evaluated, M_0 first; `trees` are the counts of each file of trees."""
    summary = typed_file(folder.path / "summary.json", Summary, folder.gaps) or Summary()
    rows = {row.name: row for row in summary.models}
    return [
        ModelResult(
            name,
            _shares(folder, place, figures, trees=trees),
            figures.solved,
            row=row,
            drift=drift,
            failed_grades=figures.failed_grades,
            grade_error=figures.grade_error,
        )
        for name, place in folder.evaluations()
        if (figures := typed_file(place / "metrics.json", EvaluationFigures, folder.gaps))
        for row, drift in [(rows.get(name, SummaryRow(name)), summary.drifted.get(name, ()))]
    ]


def _shares(
    folder: ReportFolder, place: Path, figures: EvaluationFigures, *, trees: Mapping[Path, TreeCounts]
) -> dict[str, Share]:
    graded = sum(outcome is not None for outcome in figures.solved)
    judged = [item.right for item in typed_rows(place / "pairs.jsonl", JudgedItem, folder.gaps)]
    searched = trees.get(place / "trees.jsonl", TreeCounts()).trees
    shares = {
        "greedy": (figures.greedy_accuracy, graded),
        "valid": (figures.valid_format, len(figures.solved)),
        "search": (figures.search_accuracy, searched),
        "judge": (sum(judged) / len(judged) if judged else None, len(judged)),
        "own": (figures.own_judge_accuracy, figures.own_pairs),
    }
    return {
        key: Share(min(whole, max(0, round(value * whole))), whole)
        for key, (value, whole) in shares.items()
        if value is not None and whole > 0 and math.isfinite(value)
    }


def gains(results: Sequence[ModelResult]) -> list[Gain]:
    """Return the gain of each model over the one before, then that of the last over the first and over M_1."""
    pairs = list(pairwise(results))
    if len(results) > 2:
        pairs += [(base, results[-1]) for base in results[: len(results) - 2] if base.name in (results[0].name, "M_1")]
    return [gain for base, model in pairs if len(base.solved) == len(model.solved) and (gain := _gain(base, model))]


def _gain(base: ModelResult, model: ModelResult) -> Gain | None:
    """Return the gain on the problems that both models have a mark for; None if there are none."""
    pairs = zip(base.solved, model.solved, strict=True)
    outcomes = [(first, second) for first, second in pairs if first is not None and second is not None]
    if not outcomes:
        return None
    gain, low, high = paired_gain([first for first, _ in outcomes], [second for _, second in outcomes])
    won, lost = (sum(pair == outcome for pair in outcomes) for outcome in ((False, True), (True, False)))
    return Gain(model.name, base.name, gain, low, high, won, lost)
