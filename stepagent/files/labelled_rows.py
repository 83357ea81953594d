"""Labelled data to measure a judge on, of this and other projects: the one place that knows their keys.

A row is told by its keys:

labelled pair    question, prefix, first, second, winner: this project's EFT test pairs
PRM800K          question: {problem}, label: {steps: [{completions: [{text, rating}]}]}: each completion
                 rated 1 beside one rated -1 is a pair
Math-Shepherd    input, label: the same steps with a tag, and with "+" or "-" in its place
ProcessBench     problem, steps, label: the index of the first wrong step, -1 if there is none
TRL stepwise     prompt, completions, labels: true or false per step
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stepagent.errors import DataError, explain
from stepagent.files.tables import read_raw


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two candidate steps in their seats, and which is better."""

    question: str
    prefix: tuple[str, ...]
    first: str
    second: str
    winner: Literal["first", "second", "tie"]


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A solution in steps; `first_wrong` is the index of its first wrong step, None if all are right."""

    question: str
    steps: tuple[str, ...]
    first_wrong: int | None


Labelled = LabelledPair | LabelledSolution
FORMATS = "labelled pairs, PRM800K, Math-Shepherd, ProcessBench or TRL stepwise supervision"


def read_labelled(data: str | Path, sample: int | None, seed: int) -> list[Labelled]:
    """All items of a JSONL file, a dataset folder or a hub id[:split], or `sample` of them drawn by seed.

    Raises DataError for the first row of no known format, and for data without items.
    """
    items = [item for where, row in read_raw(data) for item in labelled_items(where, row)]
    if not items:
        raise DataError(f"{data}: nothing labelled to measure a judge on")
    if sample is not None and sample < len(items):
        items = random.Random(seed).sample(items, sample)
    return items


class _Row(BaseModel):
    """Types are taken at their word: the text "False" is no label."""

    model_config = ConfigDict(strict=True)


class _PairRow(_Row):
    question: str
    first: str
    second: str
    winner: Literal["first", "second", "tie"]
    prefix: list[str] | None = None


class _Rated(_Row):
    text: str
    rating: int | float | None = None


class _Human(_Row):
    text: str


class _RatedStep(_Row):
    completions: list[_Rated] | None = None
    chosen_completion: int | None = None
    human_completion: _Human | None = None


class _RatedSteps(_Row):
    steps: list[_RatedStep]


class _Asked(_Row):
    problem: str


class _Prm800kRow(_Row):
    question: _Asked
    label: _RatedSteps


class _ShepherdRow(_Row):
    input: str
    label: str


class _ProcessBenchRow(_Row):
    problem: str
    steps: list[str]
    label: int


class _StepwiseRow(_Row):
    prompt: str
    completions: list[str]
    labels: list[bool] | list[Literal[0, 1]]


R = TypeVar("R", bound=_Row)


def labelled_items(where: str, row: dict[str, Any]) -> Iterator[Labelled]:
    """What a row holds: one item, or several pairs. Raises DataError that names `where`."""
    if {"first", "second", "winner"} <= row.keys():
        pair = _read(_PairRow, where, row)
        yield LabelledPair(pair.question, tuple(pair.prefix or ()), pair.first, pair.second, pair.winner)
    elif isinstance(row.get("question"), dict) and isinstance(row.get("label"), dict):
        yield from _prm800k(where, _read(_Prm800kRow, where, row))
    elif {"input", "label"} <= row.keys():
        yield _math_shepherd(where, _read(_ShepherdRow, where, row))
    elif {"problem", "steps", "label"} <= row.keys():
        bench = _read(_ProcessBenchRow, where, row)
        if bench.label >= len(bench.steps):
            raise DataError(f"{where}: label {bench.label}, but there are only {len(bench.steps)} steps")
        yield LabelledSolution(bench.problem, tuple(bench.steps), bench.label if bench.label >= 0 else None)
    elif {"prompt", "completions", "labels"} <= row.keys():
        yield _stepwise(where, _read(_StepwiseRow, where, row))
    else:
        found = ", ".join(row) or "nothing"
        raise UnknownRowError(f"{where}: not a row of {FORMATS}; it holds {found}")


class UnknownRowError(DataError):
    """A row whose keys are those of no format."""


def _read(kind: type[R], where: str, row: dict[str, Any]) -> R:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        raise DataError(f"{where}: {explain(error)}") from None


def _prm800k(where: str, row: _Prm800kRow) -> Iterator[LabelledPair]:
    """The seats alternate, so that a judge that always says "first" is right half the time."""
    prefix: tuple[str, ...] = ()
    seat = 0
    for step in row.label.steps:
        rated = step.completions or []
        good = [one.text for one in rated if one.rating == 1]
        bad = [one.text for one in rated if one.rating == -1]
        for right, wrong in zip(good, bad, strict=False):
            seat = 1 - seat
            if seat:
                yield LabelledPair(row.question.problem, prefix, right, wrong, "first")
            else:
                yield LabelledPair(row.question.problem, prefix, wrong, right, "second")
        chosen, taken = step.chosen_completion, step.human_completion
        if chosen is not None and not 0 <= chosen < len(rated):
            raise DataError(f"{where}: chosen_completion {chosen}, but there are {len(rated)} completions")
        text = rated[chosen].text if chosen is not None else taken.text if taken else ""
        if not text:
            return
        prefix = (*prefix, f"{text}\n")


def _stepwise(where: str, row: _StepwiseRow) -> LabelledSolution:
    if len(row.completions) != len(row.labels):
        raise DataError(f"{where}: {len(row.completions)} completions, but {len(row.labels)} labels")
    wrong = next((place for place, label in enumerate(row.labels) if not label), None)
    return LabelledSolution(row.prompt, tuple(row.completions), wrong)


def _math_shepherd(where: str, row: _ShepherdRow) -> LabelledSolution:
    lines, marks = row.input.split("\n"), row.label.split("\n")
    start = re.search(r"Step 1:", row.input)
    if start is None:
        raise DataError(f"{where}: no 'Step 1:' in 'input', so its steps cannot be told apart")
    question = row.input[: start.start()].strip()
    steps = [step.strip() for step in re.split(r"\s*ки\n?", row.input[start.start() :])]
    steps = [step for step in steps if step]
    said = re.findall(r"([+-])\s*(?:\n|\Z)", row.label)
    if len(steps) != len(said) or len(lines) != len(marks):
        raise DataError(f"{where}: {len(steps)} steps in 'input', but {len(said)} labels in 'label'")
    wrong = next((i for i, mark in enumerate(said) if mark == "-"), None)
    return LabelledSolution(question, tuple(f"{step}\n" for step in steps), wrong)
