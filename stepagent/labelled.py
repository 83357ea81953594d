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
from typing import Any, Literal

from stepagent.errors import DataError
from stepagent.tables import read_raw


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


def labelled_items(where: str, row: dict[str, Any]) -> Iterator[Labelled]:
    """What a row holds: one item, or several pairs. Raises DataError that names `where`."""
    try:
        if {"first", "second", "winner"} <= row.keys():
            yield _pair(where, row)
        elif isinstance(row.get("question"), dict) and isinstance(row.get("label"), dict):
            yield from _prm800k(row)
        elif {"input", "label"} <= row.keys():
            yield _math_shepherd(where, row)
        elif {"problem", "steps", "label"} <= row.keys():
            wrong = int(row["label"])
            steps = tuple(str(step) for step in row["steps"])
            if wrong >= len(steps):
                raise DataError(f"{where}: label {wrong}, but there are only {len(steps)} steps")
            yield LabelledSolution(str(row["problem"]), steps, wrong if wrong >= 0 else None)
        elif {"prompt", "completions", "labels"} <= row.keys():
            yield _stepwise(where, row)
        else:
            found = ", ".join(row) or "nothing"
            raise DataError(f"{where}: not a row of {FORMATS}; it holds {found}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not a whole row of {FORMATS} ({error!r})") from None


def _pair(where: str, row: dict[str, Any]) -> LabelledPair:
    if row["winner"] not in ("first", "second", "tie"):
        raise DataError(f"{where}: 'winner' is first, second or tie, not {row['winner']!r}")
    prefix = tuple(str(step) for step in row.get("prefix") or ())
    return LabelledPair(str(row["question"]), prefix, str(row["first"]), str(row["second"]), row["winner"])


def _prm800k(row: dict[str, Any]) -> Iterator[LabelledPair]:
    """The seats alternate, so that a judge that always says "first" is right half the time."""
    question = str(row["question"]["problem"])
    prefix: tuple[str, ...] = ()
    seat = 0
    for step in row["label"]["steps"]:
        rated = step.get("completions") or []
        good = [str(one["text"]) for one in rated if one.get("rating") == 1]
        bad = [str(one["text"]) for one in rated if one.get("rating") == -1]
        for right, wrong in zip(good, bad, strict=False):
            seat = 1 - seat
            if seat:
                yield LabelledPair(question, prefix, right, wrong, "first")
            else:
                yield LabelledPair(question, prefix, wrong, right, "second")
        chosen = step.get("chosen_completion")
        taken = (
            rated[chosen]["text"] if chosen is not None else (step.get("human_completion") or {}).get("text")
        )
        if not taken:
            return
        prefix = (*prefix, f"{taken}\n")


def _stepwise(where: str, row: dict[str, Any]) -> LabelledSolution:
    steps, labels = tuple(str(step) for step in row["completions"]), [bool(label) for label in row["labels"]]
    if len(steps) != len(labels):
        raise DataError(f"{where}: {len(steps)} completions, but {len(labels)} labels")
    wrong = labels.index(False) if False in labels else None
    return LabelledSolution(str(row["prompt"]), steps, wrong)


def _math_shepherd(where: str, row: dict[str, Any]) -> LabelledSolution:
    asked, labelled = str(row["input"]), str(row["label"])
    lines, marks = asked.split("\n"), labelled.split("\n")
    start = re.search(r"Step 1:", asked)
    if start is None:
        raise DataError(f"{where}: no 'Step 1:' in 'input', so its steps cannot be told apart")
    question = asked[: start.start()].strip()
    steps = re.split(r"\s*ки\n?", asked[start.start() :])
    said = re.findall(r"([+-])\s*(?:\n|\Z)", labelled)
    steps = [step.strip() for step in steps if step.strip()]
    if len(steps) != len(said) or len(lines) != len(marks):
        raise DataError(f"{where}: {len(steps)} steps in 'input', but {len(said)} labels in 'label'")
    wrong = next((i for i, mark in enumerate(said) if mark == "-"), None)
    return LabelledSolution(question, tuple(f"{step}\n" for step in steps), wrong)
