"""Preference rows of this and of other projects, as the optimizer and `data import` read them.

A row is told by its keys:

stepagent           prompt, chosen, rejected, chosen_ends, ... (`preferences.jsonl`)
Step-DPO            prompt (the question), initial_reason_steps, chosen, rejected: one step against another
TRL conversational  chosen and rejected as lists of turns, prompt as such a list or left out
TRL standard        chosen and rejected as text, prompt as text or left out
LLaMA-Factory       the same with instruction, and perhaps input, in the place of prompt

TRL's and LLaMA-Factory's rows hold whole replies: the end-of-turn token is trained after them, as TRL itself
does it. A step of Step-DPO does not end the solution: no end is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stepagent.config.prompts import PromptTemplate
from stepagent.errors import DataError, explain
from stepagent.files.tables import read_raw
from stepagent.types import Message, StepPreference


@dataclass(frozen=True, slots=True)
class ForeignPair:
    """Two continuations of the same context: the rendered `turns`, then `prefix`. Without turns the context
    is the prefix alone. `ends` says whether they close the reply."""

    turns: tuple[Message, ...]
    prefix: str
    chosen: str
    rejected: str
    ends: bool


PREFERENCE_FORMATS = "stepagent, TRL (standard or conversational), LLaMA-Factory or Step-DPO"


def read_preferences(
    data: str | Path, solve: PromptTemplate | None = None
) -> Iterator[tuple[str, StepPreference | ForeignPair]]:
    """Every row of `data` with its place there. `data` is a JSONL file, a dataset folder or a hub id, with
    `:split` after it if not `train`. `solve` is the prompt that a question without a context is put in.

    Raises DataError for the first bad row.
    """
    for place, row in read_raw(data):
        yield place, preference(place, row, solve)


def preference(place: str, row: dict[str, Any], solve: PromptTemplate | None = None) -> StepPreference | ForeignPair:
    """One row of any of the formats. Raises DataError that names `place`."""
    if "chosen_ends" in row or "prompt_ids" in row:
        try:
            return TypeAdapter(StepPreference).validate_python(row)
        except ValidationError as error:
            raise DataError(f"{place}: {explain(error)}") from None
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if prompt is None and isinstance(row.get("instruction"), str):
        prompt = "\n".join(text for text in (row["instruction"], row.get("input")) if isinstance(text, str) and text)
    if "initial_reason_steps" in row:
        before = row["initial_reason_steps"] or ""
        if not all(isinstance(text, str) for text in (prompt, before, chosen, rejected)):
            raise DataError(f"{place}: 'prompt', 'initial_reason_steps', 'chosen' and 'rejected' must be text")
        question = str(prompt)
        turns = solve.messages({"question": question}) if solve else (Message("user", question),)
        return ForeignPair(turns, before, str(chosen), rejected=str(rejected), ends=False)
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _conversation(place, prompt, chosen, rejected=rejected)
    if isinstance(chosen, str) and isinstance(rejected, str) and isinstance(prompt, str | None):
        context = _common_text(chosen, rejected) if prompt is None and chosen != rejected else prompt or ""
        cut = len(context) if prompt is None else 0  # equal texts stay whole: the pair is set aside as such
        return ForeignPair((), context, chosen[cut:], rejected=rejected[cut:], ends=True)
    keys = ", ".join(row) or "nothing"
    raise DataError(f"{place}: not a preference row of {PREFERENCE_FORMATS}; it holds {keys}")


def _conversation(place: str, prompt: Any, chosen: list[Any], *, rejected: list[Any]) -> ForeignPair:
    before = prompt if isinstance(prompt, list) else []
    if prompt is None:
        shortest = max(0, min(len(chosen), len(rejected)) - 1)
        shared = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
        before, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    elif not isinstance(prompt, list):
        raise DataError(f"{place}: 'prompt' must be a list of turns, as 'chosen' is")
    try:
        turns = tuple(Message(turn["role"], turn["content"]) for turn in before)
        replies = [(turn["role"], turn["content"]) for turn in (*chosen, *rejected)]
    except (TypeError, KeyError):
        raise DataError(f"{place}: a turn needs 'role' and 'content'") from None
    contents = [*(turn.content for turn in turns), *(content for _, content in replies)]
    if not all(isinstance(content, str) for content in contents):
        raise DataError(f"{place}: a turn's 'content' must be text")
    if len(chosen) != 1 or len(rejected) != 1 or any(role != "assistant" for role, _ in replies):
        raise DataError(f"{place}: 'chosen' and 'rejected' must differ in one assistant turn")
    return ForeignPair(turns, "", str(replies[0][1]), rejected=str(replies[1][1]), ends=True)


def _common_text(a: str, b: str) -> str:
    """Return the beginning that both share, up to a space: TRL's rule for a row without a prompt."""
    length = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[: length - 1] if length and a[length - 1] == " " else a[:length]
