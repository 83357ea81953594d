"""Preference rows -> pairs of token sequences, with a count of every row set aside, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepagent.config.prompts import PromptTemplate
from stepagent.errors import DataError
from stepagent.files.preference_rows import ForeignPair, read_preferences
from stepagent.files.runs import hash_data
from stepagent.models.tokenizer import render, tokenizer_sha256
from stepagent.optimize.packing import Target, Unit, common_prefix
from stepagent.types import StepPreference

Ids = tuple[int, ...]


@dataclass(slots=True)
class Pairs:
    """Per usable row: its (chosen, rejected) targets, its problem, the judge's margin; `rounds` they are
    of. `aside` counts the other rows under their reason. `moved` counts the rows known only as text whose
    last context token runs into the step: the step's tokens begin there."""

    units: list[Unit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    rounds: set[int] = field(default_factory=set)
    aside: Counter[str] = field(default_factory=Counter)
    moved: int = 0


def load_pairs(
    data: str | Path, tokenizer: Any, window: int, vocabulary: int, solve: PromptTemplate | None = None
) -> Pairs:
    """Read preferences (any format of `formats`) for a model with this context window and vocabulary size.

    Ids are taken as they were sampled; text is tokenised only where a backend gave no ids, after the question
    in the `solve` prompt and this model's chat template. The
    end-of-turn token closes a step only if it ended the solution. Raises DataError for ids of another
    tokenizer and for data without a usable pair.
    """
    sha256 = tokenizer_sha256(tokenizer)
    pairs = Pairs()
    for where, row in read_preferences(data, solve):
        prompt, steps, moved = _token_ids(where, row, tokenizer, sha256, solve)
        if why := _unusable(prompt, steps, window, vocabulary):
            pairs.aside[why] += 1
            continue
        chosen, rejected = (Target((*prompt, *step), len(prompt)) for step in steps)
        pairs.units.append((chosen, rejected))
        pairs.moved += moved
        if isinstance(row, StepPreference):
            pairs.problems.append(row.problem_id)
            pairs.margins.append(row.margin)
            pairs.rounds.add(row.round)
        else:
            pairs.problems.append(hash_data([[turn.content for turn in row.turns] or row.prefix]))
            pairs.margins.append(1.0)
    if not pairs.units and not pairs.aside:
        raise DataError(f"{data}: no preference pairs; search more problems or sample hotter")
    if not pairs.units:
        reasons = ", ".join(f"{count} {reason}" for reason, count in pairs.aside.items())
        raise DataError(f"{data}: no usable pair ({reasons})")
    return pairs


def _token_ids(
    where: str,
    row: StepPreference | ForeignPair,
    tokenizer: Any,
    sha256: str,
    solve: PromptTemplate | None,
) -> tuple[Ids, list[Ids], bool]:
    """Ids of the context and of both steps, and whether the boundary had to be moved."""
    if isinstance(row, StepPreference):
        ids = (row.prompt_ids, row.chosen_ids, row.rejected_ids)
        if ids != (None, None, None) and row.tokenizer_sha256 != sha256:
            raise DataError(f"{where}: token ids of another tokenizer; search again with this model")
        if row.prompt_ids is not None and row.chosen_ids is not None and row.rejected_ids is not None:
            return row.prompt_ids, [row.chosen_ids, row.rejected_ids], False
        context, bare = row.prompt, False
        if solve and row.question:  # an API without ids hides its chat template: the prompt is plain text
            context = render(tokenizer, solve.messages({"question": row.question})) + "".join(row.prefix)
        steps = [(row.chosen, row.chosen_ends), (row.rejected, row.rejected_ends)]
    else:
        rendered = render(tokenizer, row.turns) if row.turns else ""
        context, bare = rendered + row.prefix, not row.turns
        steps = [(row.chosen, row.ends), (row.rejected, row.ends)]

    def tokens(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=bare)["input_ids"]
        return ids[:-1] if bare and ids and ids[-1] == tokenizer.eos_token_id else ids

    alone = tokens(context)
    together = [tokens(context + text) for text, _ in steps]
    start = min(common_prefix(alone, ids) for ids in together)
    own = [
        (*ids[start:], *[tokenizer.eos_token_id] * ends) if text else ()
        for ids, (text, ends) in zip(together, steps, strict=True)
    ]
    return tuple(alone[:start]), own, start < len(alone)


def _unusable(prompt: Ids, steps: list[Ids], window: int, vocabulary: int) -> str | None:
    if not prompt:
        return "empty prompt"
    if not all(steps):
        return "empty step"
    if steps[0] == steps[1]:
        return "chosen equals rejected"
    if not all(0 <= token < vocabulary for ids in (prompt, *steps) for token in ids):
        return "ids outside the vocabulary"
    if len(prompt) + max(map(len, steps)) > window:
        return "longer than the model's window"
    return None
