"""Labelled steps and pairs of this and of other projects, to measure a judge on.

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
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from stepagent.errors import DataError, explain
from stepagent.files.tables import read_raw
from stepagent.files.values import HALF_CHARACTER, cell_integer, cell_list, has_half_character
from stepagent.types import StepPair


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A solution in steps; `first_wrong` is the index of its first wrong step, None if all are right."""

    question: str
    steps: tuple[str, ...]
    first_wrong: int | None


Labelled = StepPair | LabelledSolution
LABELLED_FORMATS = "labelled pairs, PRM800K, Math-Shepherd, ProcessBench or TRL stepwise supervision"


def read_labelled(data: str | Path, sample: int | None, seed: int) -> list[Labelled]:
    """All items of a file, a dataset folder or a hub id[:split], or `sample` of them drawn by seed.

    Raises DataError for the first row of no known format or with half a character, and for data without items.
    """
    items: list[Labelled] = []
    for place, row in read_raw(data):
        items += labelled_items(place, row)
        if has_half_character(row):
            raise DataError(f"{place}: {HALF_CHARACTER}")
    if not items:
        raise DataError(f"{data}: nothing labelled to measure a judge on")
    if sample is not None and sample < len(items):
        items = random.Random(seed).sample(items, sample)
    return items


Steps = Annotated[list[str], BeforeValidator(cell_list)]


class _Row(BaseModel):
    """Base of the foreign rows. Types are taken at their word: the text "False" is no label."""

    model_config = ConfigDict(strict=True)


class _PairRow(_Row):
    question: str
    first: str
    second: str
    winner: Literal["first", "second", "tie"]
    prefix: Annotated[list[str] | None, BeforeValidator(cell_list)] = None


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
    steps: Steps
    label: Annotated[int, BeforeValidator(cell_integer)]


class _StepwiseRow(_Row):
    prompt: str
    completions: Steps
    labels: Annotated[list[bool] | list[Literal[0, 1]], BeforeValidator(cell_list)]


R = TypeVar("R", bound=_Row)


def labelled_items(place: str, row: dict[str, Any]) -> Iterator[Labelled]:
    """Return the items of a row: a solution, or one or several pairs. Raises DataError that names `place`."""
    row = {name: value for name, value in row.items() if value is not None}  # files of columns hold null for no key
    if {"first", "second", "winner"} <= row.keys():
        pair = _read(_PairRow, place, row)
        yield StepPair(pair.question, tuple(pair.prefix or ()), pair.first, second=pair.second, winner=pair.winner)
    elif isinstance(row.get("question"), dict) and isinstance(row.get("label"), dict):
        yield from _prm800k(place, _read(_Prm800kRow, place, row))
    elif {"input", "label"} <= row.keys():
        yield _math_shepherd(place, _read(_ShepherdRow, place, row))
    elif {"problem", "steps", "label"} <= row.keys():
        bench = _read(_ProcessBenchRow, place, row)
        if bench.label >= len(bench.steps):
            raise DataError(f"{place}: label {bench.label}, but there are only {len(bench.steps)} steps")
        yield LabelledSolution(bench.problem, tuple(bench.steps), bench.label if bench.label >= 0 else None)
    elif {"prompt", "completions", "labels"} <= row.keys():
        yield _stepwise(place, _read(_StepwiseRow, place, row))
    else:
        keys = ", ".join(row) or "nothing"
        raise UnknownRowError(f"{place}: not a row of {LABELLED_FORMATS}; it holds {keys}")


class UnknownRowError(DataError):
    """A row whose keys are those of no format."""


def _read(kind: type[R], place: str, row: dict[str, Any]) -> R:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        raise DataError(f"{place}: {explain(error)}") from None


def _prm800k(place: str, row: _Prm800kRow) -> Iterator[StepPair]:
    """Return the positions alternate, so that a judge that always says "first" is right half the time."""
    prefix: tuple[str, ...] = ()
    right_is_first = False
    for step in row.label.steps:
        rated = step.completions or []
        right_steps = [completion.text for completion in rated if completion.rating == 1]
        wrong_steps = [completion.text for completion in rated if completion.rating == -1]
        for right, wrong in zip(right_steps, wrong_steps, strict=False):
            right_is_first = not right_is_first
            pair = StepPair(row.question.problem, prefix, right, second=wrong, winner="first")
            yield pair if right_is_first else pair.swapped()
        chosen, human = step.chosen_completion, step.human_completion
        if chosen is not None and not 0 <= chosen < len(rated):
            raise DataError(f"{place}: chosen_completion {chosen}, but there are {len(rated)} completions")
        text = rated[chosen].text if chosen is not None else human.text if human else ""
        if not text:
            return
        prefix = (*prefix, f"{text}\n")


def _stepwise(place: str, row: _StepwiseRow) -> LabelledSolution:
    if len(row.completions) != len(row.labels):
        raise DataError(f"{place}: {len(row.completions)} completions, but {len(row.labels)} labels")
    wrong = next((index for index, label in enumerate(row.labels) if not label), None)
    return LabelledSolution(row.prompt, tuple(row.completions), wrong)


def _math_shepherd(place: str, row: _ShepherdRow) -> LabelledSolution:
    lines, marks = row.input.split("\n"), row.label.split("\n")
    start = re.search(r"Step 1:", row.input)
    if start is None:
        raise DataError(f"{place}: no 'Step 1:' in 'input', so its steps cannot be told apart")
    question = row.input[: start.start()].strip()
    steps = [step.strip() for step in re.split(r"\s*ки\n?", row.input[start.start() :])]
    steps = [step for step in steps if step]
    labels = re.findall(r"([+-])\s*(?:\n|\Z)", row.label)
    if len(steps) != len(labels) or len(lines) != len(marks):
        raise DataError(f"{place}: {len(steps)} steps in 'input', but {len(labels)} labels in 'label'")
    wrong = next((i for i, mark in enumerate(labels) if mark == "-"), None)
    return LabelledSolution(question, tuple(f"{step}\n" for step in steps), wrong)
