"""preferences.jsonl -> pairs of token sequences, with a count of every row set aside, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepagent.checkpoints import tokenizer_sha256
from stepagent.errors import DataError
from stepagent.jsonl import read_numbered
from stepagent.optimize.packing import Target, Unit
from stepagent.types import StepPreference


@dataclass(slots=True)
class Pairs:
    """Per usable row: its (chosen, rejected) targets, its problem, the judge's margin; `rounds` they are
    of. `aside` counts the other rows under their reason."""

    units: list[Unit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    rounds: set[int] = field(default_factory=set)
    aside: Counter[str] = field(default_factory=Counter)


def load_pairs(data: Path, tokenizer: Any, window: int, vocabulary: int) -> Pairs:
    """Read a preferences file for a model with this context window and vocabulary size.

    Ids are taken as they were sampled; text is tokenised only where a backend gave no ids. The
    end-of-turn token closes a step only if it ended the solution. Raises DataError for ids of another
    tokenizer and for a file without a usable pair.
    """
    rows = read_numbered(data, StepPreference)
    if not rows:
        raise DataError(f"{data}: no preference pairs; search more problems or sample hotter")
    sha256 = tokenizer_sha256(tokenizer)
    pairs = Pairs()
    for line, row in rows:
        has_ids = (row.prompt_ids, row.chosen_ids, row.rejected_ids) != (None, None, None)
        if has_ids and row.tokenizer_sha256 != sha256:
            raise DataError.at(data, line, "token ids of another tokenizer; search again with this model")
        prompt = _ids(tokenizer, row.prompt, row.prompt_ids)
        steps = [
            _ids(tokenizer, row.chosen, row.chosen_ids, row.chosen_ends),
            _ids(tokenizer, row.rejected, row.rejected_ids, row.rejected_ends),
        ]
        if why := _unusable(prompt, steps, window, vocabulary):
            pairs.aside[why] += 1
            continue
        chosen, rejected = (Target((*prompt, *step), len(prompt)) for step in steps)
        pairs.units.append((chosen, rejected))
        pairs.problems.append(row.problem_id)
        pairs.margins.append(row.margin)
        pairs.rounds.add(row.round)
    if not pairs.units:
        why = ", ".join(f"{count} {reason}" for reason, count in pairs.aside.items())
        raise DataError(f"{data}: no usable pair ({why})")
    return pairs


def _ids(tokenizer: Any, text: str, ids: tuple[int, ...] | None, ends: bool = False) -> tuple[int, ...]:
    if ids is not None:
        return ids
    return (*tokenizer(text, add_special_tokens=False)["input_ids"], *[tokenizer.eos_token_id] * ends)


def _unusable(
    prompt: tuple[int, ...], steps: list[tuple[int, ...]], window: int, vocabulary: int
) -> str | None:
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
