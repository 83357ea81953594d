"""Turn preference rows into pairs of token sequences, and count the rows set aside by reason."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stepagent.config.prompts import PromptTemplate
from stepagent.errors import DataError
from stepagent.files.preference_rows import ForeignPair, read_preferences
from stepagent.files.runs import hash_data
from stepagent.files.values import has_half_character
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.packing import Target, Unit, common_prefix
from stepagent.types import StepPreference

Ids = tuple[int, ...]


@dataclass(slots=True)
class Pairs:
    """The usable rows of a preference file, in parallel lists: the (chosen, rejected) targets, the problem
    (its id, or a hash of the context), the judge's margin (1 if there is none) and the pair's weight. `rounds` are
    the rounds they come from. `aside` counts the other rows by reason. `moved_boundaries` counts the rows that have
    only text and whose last context token runs into the step, so that the step's tokens begin with that token."""

    units: list[Unit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    rounds: set[int] = field(default_factory=set)
    aside: Counter[str] = field(default_factory=Counter)
    moved_boundaries: int = 0


def load_pairs(
    data: str | Path,
    tokenizer: ChatTokenizer,
    window: int,
    *,
    vocabulary: int,
    solve: PromptTemplate | None = None,
) -> Pairs:
    """Read preferences (any format of `preference_rows`) for a model with this context window and vocabulary size.

    Ids are taken as they were sampled; text is tokenised only where a backend gave no ids, after the question
    in the `solve` prompt and this model's chat template. The end-of-turn token closes a step only if it ended
    the solution. Raises DataError for ids of another tokenizer and for data without a usable pair.
    """
    pairs = Pairs()
    for place, row in read_preferences(data, solve):
        if _is_broken(row):
            pairs.aside["broken characters"] += 1
            continue
        prompt, steps, boundary_moved = _token_ids(place, row, tokenizer, solve=solve)
        if reason := _unusable(prompt, steps, window, vocabulary=vocabulary):
            pairs.aside[reason] += 1
            continue
        chosen, rejected = (Target((*prompt, *step), len(prompt)) for step in steps)
        pairs.units.append((chosen, rejected))
        pairs.moved_boundaries += boundary_moved
        if isinstance(row, StepPreference):
            if not 0 < row.weight < math.inf:
                raise DataError(f"{place}: weight {row.weight}: what a pair counts is a number above 0")
            pairs.problems.append(row.problem_id)
            pairs.margins.append(row.margin)
            pairs.weights.append(row.weight)
            pairs.rounds.add(row.round)
        else:
            pairs.problems.append(hash_data([[turn.content for turn in row.turns] or row.prefix]))
            pairs.margins.append(1.0)
            pairs.weights.append(1.0)
    if not pairs.units and not pairs.aside:
        raise DataError(f"{data}: no preference pairs; search more problems or raise generator.temperature")
    if not pairs.units:
        reasons = ", ".join(f"{count} {reason}" for reason, count in pairs.aside.items())
        raise DataError(f"{data}: no usable pair ({reasons})")
    return pairs


def _token_ids(
    place: str,
    row: StepPreference | ForeignPair,
    tokenizer: ChatTokenizer,
    *,
    solve: PromptTemplate | None,
) -> tuple[Ids, list[Ids], bool]:
    """Return the ids of the context and of both steps, and whether the boundary had to be moved. Raises
    DataError, which names `place`, for ids of another tokenizer."""
    if isinstance(row, StepPreference):
        ids = (row.prompt_ids, row.chosen_ids, row.rejected_ids)
        if ids != (None, None, None) and row.tokenizer_sha256 != tokenizer.sha256:
            raise DataError(f"{place}: token ids of another tokenizer; search again with this model")
        if row.prompt_ids is not None and row.chosen_ids is not None and row.rejected_ids is not None:
            return row.prompt_ids, [row.chosen_ids, row.rejected_ids], False
        context, is_plain = row.prompt, False
        if solve and row.question:  # an API without ids hides its chat template: the prompt is plain text
            context = tokenizer.render(solve.messages({"question": row.question})) + "".join(row.prefix)
        steps = [(row.chosen, row.chosen_ends), (row.rejected, row.rejected_ends)]
    else:
        chat = tokenizer.render(row.turns) if row.turns else ""
        context, is_plain = chat + row.prefix, not row.turns
        steps = [(row.chosen, row.ends[0]), (row.rejected, row.ends[1])]

    # a chat template writes its own special tokens; plain text gets the tokenizer's, but no end
    tokens = tokenizer.opening_ids if is_plain else tokenizer.ids
    steps = [(_unended(tokenizer.unopened(context, text), ends, tokenizer), ends) for text, ends in steps]
    context_ids = tokens(context)
    # Tokenised with its context, since a step's first characters may merge with the context's last token.
    sequences = [tokens(context + text) for text, _ in steps]
    start = min(common_prefix(context_ids, ids) for ids in sequences)
    step_ids = [
        (*ids[start:], *[tokenizer.end_id] * (ends and ids[-1] != tokenizer.end_id)) if text else ()
        for ids, (text, ends) in zip(sequences, steps, strict=True)
    ]
    return context_ids[:start], step_ids, start < len(context_ids)


def _unended(text: str, ends: bool, tokenizer: ChatTokenizer) -> str:
    """Return the text of a step that ends a turn without the line behind an end token that it brings."""
    ids = tokenizer.ids(text.rstrip())
    return text.rstrip() if ends and ids[-1:] == (tokenizer.end_id,) else text


def _is_broken(row: StepPreference | ForeignPair) -> bool:
    """Whether a text that would be tokenised holds half a character, which no tokenizer takes."""
    if isinstance(row, StepPreference):
        return has_half_character((row.question, row.prompt, row.chosen, row.rejected))
    return has_half_character((row.prefix, row.chosen, row.rejected, [turn.content for turn in row.turns]))


def _unusable(prompt: Ids, steps: list[Ids], window: int, *, vocabulary: int) -> str | None:
    """Return the reason why a pair cannot be trained on, or None if it can."""
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
