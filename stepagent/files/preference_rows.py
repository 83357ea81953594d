"""Preference rows of this and of other projects, as the optimizer and `data import` read them.

A row is told by its keys:

stepagent           prompt, chosen, rejected, chosen_ends, ... (`preferences.jsonl`)
`data export`       a trainer's row with question, prefix, ends, end: the text `end` is taken off again
Step-DPO            prompt (the question), initial_reason_steps, chosen, rejected: one step against another
TRL conversational  chosen and rejected as lists of turns, prompt as such a list or left out
TRL standard        chosen and rejected as text, prompt as rendered text
LLaMA-Factory       chosen and rejected with instruction (and input, system, history), or with conversations
Orca                chosen and rejected with question (problem, query or input), and perhaps system

Only a row with chosen and rejected and nothing else to read uses the common beginning of both as its prompt.

Rows of other projects hold whole replies: the end-of-turn token is trained after them, as TRL itself does it. A step
of Step-DPO does not end the solution: no end is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from stepagent.config.prompts import PromptTemplate
from stepagent.errors import DataError, explain
from stepagent.files.tables import read_raw
from stepagent.files.values import cell_list, is_missing
from stepagent.types import Message, StepPreference


@dataclass(frozen=True, slots=True)
class ForeignPair:
    """Two continuations of the same context: the rendered `turns`, then `prefix`. Without turns the context
    is the prefix alone. `ends` says whether they close the reply, the chosen one and the rejected one. `question` and
    `steps` are the problem and the steps before, where the row of an export names them."""

    turns: tuple[Message, ...]
    prefix: str
    chosen: str
    rejected: str
    ends: tuple[bool, bool]
    question: str = ""
    steps: tuple[str, ...] = ()


PREFERENCE_FORMATS = "stepagent, TRL (standard or conversational), LLaMA-Factory, Orca or Step-DPO"
_QUESTIONS = ("instruction", "question", "problem", "query", "input")
"""Columns that hold the user's turn, the first that a row has."""
_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_WORDS = 3  # more words than these are a text to be read, not a name


def read_preferences(
    data: str | Path, solve: PromptTemplate | None = None
) -> Iterator[tuple[str, StepPreference | ForeignPair]]:
    """Every row of `data` with its place there. `data` is a file, a dataset folder or a hub id, with `:split` after it
    if not `train`. `solve` is the prompt that Step-DPO's bare question is put in.

    Raises DataError for the first bad row.
    """
    for place, row in read_raw(data):
        yield place, preference(place, row, solve)


def preference(place: str, row: Mapping[str, Any], solve: PromptTemplate | None = None) -> StepPreference | ForeignPair:
    """One row of any of the formats. Raises DataError that names `place`, and the keys of a row of no format."""
    if "chosen_ends" in row or "prompt_ids" in row:
        try:
            return TypeAdapter(StepPreference).validate_python(row)
        except ValidationError as error:
            raise DataError(f"{place}: {explain(error)}") from None
    cells = {name: value for name, value in row.items() if value is not None}
    if "initial_reason_steps" in row:
        pair = _step_dpo(place, row, solve)
    elif _is_conversation(cells):
        pair = _conversation(place, cells)
    elif isinstance(cells.get("chosen"), str) and isinstance(cells.get("rejected"), str):
        pair = _texts(place, cells)
    else:
        raise _unknown(place, row)
    return _without_additions(cells, pair)


def _unknown(place: str, row: Mapping[str, Any]) -> DataError:
    keys = ", ".join(row) or "nothing"
    return DataError(f"{place}: not a preference row of {PREFERENCE_FORMATS}; it holds {keys}")


def _step_dpo(place: str, row: Mapping[str, Any], solve: PromptTemplate | None) -> ForeignPair:
    question, before = row.get("prompt"), row["initial_reason_steps"] or ""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not all(isinstance(text, str) for text in (question, before, chosen, rejected)):
        raise DataError(f"{place}: 'prompt', 'initial_reason_steps', 'chosen' and 'rejected' must be text")
    turns = solve.messages({"question": str(question)}) if solve else (Message("user", str(question)),)
    return ForeignPair(turns, before, str(chosen), rejected=str(rejected), ends=(False, False))


def _texts(place: str, cells: Mapping[str, Any]) -> ForeignPair:
    """Return a row whose replies are texts."""
    chosen, rejected = cells["chosen"], cells["rejected"]
    before = _turns_before(place, cells)
    prompt = cells.get("prompt")
    if isinstance(prompt, list):
        turns = (*before, *_turns(place, prompt))
    elif prompt is not None and not isinstance(prompt, str):
        raise _unknown(place, cells)
    elif isinstance(prompt, str) and prompt.strip():
        if not before:
            return ForeignPair((), prompt, chosen, rejected=rejected, ends=(True, True))
        turns = (*before, Message("user", prompt))
    elif question := _question(place, cells):
        if _is_export(cells):  # LLaMA-Factory's, whose instruction is a rendered prompt
            return ForeignPair((), question, chosen, rejected=rejected, ends=(True, True))
        turns = (*before, Message("user", question))
    elif before and before[-1].role == "user":
        turns = before
    elif any(name in cells for name in ("prompt", *_QUESTIONS)):  # an empty one: whoever reads the row sets it aside
        turns = ()
    else:
        return _implicit(place, cells, is_alone=not before)
    return ForeignPair(turns, "", chosen, rejected=rejected, ends=(True, True))


def _implicit(place: str, cells: Mapping[str, Any], is_alone: bool) -> ForeignPair:
    """Return a row without a prompt: the context is the common beginning of both replies (TRL's rule), unless another
    column could hold the question."""
    chosen, rejected = cells["chosen"], cells["rejected"]
    texts = [name for name, value in cells.items() if name not in ("chosen", "rejected") and _may_be_question(value)]
    if texts or not is_alone:
        raise _unknown(place, cells)
    context = _common_text(chosen, rejected) if chosen != rejected else ""  # equal texts are set aside as such
    cut = len(context)
    return ForeignPair((), context, chosen[cut:], rejected=rejected[cut:], ends=(True, True))


def _may_be_question(value: object) -> bool:
    return isinstance(value, dict | list) or (isinstance(value, str) and len(value.split()) > _WORDS)


def _question(place: str, cells: Mapping[str, Any]) -> str:
    """Return the text of the question's column, or an empty one: the instruction with its input, or the first other."""
    names = [name for name in _QUESTIONS if not is_missing(cells.get(name))]
    if not names:
        return ""
    name = names[0]
    inputs = ("query", "input") if name == "instruction" else ()
    parts = [cells[name], *(cells[column] for column in inputs if column in names)]
    if not all(isinstance(part, str) for part in parts):
        raise DataError(f"{place}: '{name}' must be text")
    return "\n".join(parts)


def _turns_before(place: str, cells: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the turns of the columns system, history, conversations and messages."""
    system, history = cells.get("system"), cell_list(cells.get("history"))
    if not isinstance(system, str | None):
        raise DataError(f"{place}: 'system' must be text")
    turns = [Message("system", system)] if system and system.strip() else []
    for exchange in history or ():
        if isinstance(exchange, dict):
            turns += _turns(place, [exchange])
        elif isinstance(exchange, list | tuple) and len(exchange) == 2 and all(isinstance(t, str) for t in exchange):
            turns += [Message("user", exchange[0]), Message("assistant", exchange[1])]
        else:
            raise DataError(f"{place}: 'history' must be a list of [user, assistant]")
    for name in ("conversations", "messages"):
        if isinstance(cells.get(name), list) and not _is_whole_dialogue(cells, name):
            turns += _turns(place, cells[name])
            break
    return tuple(turns)


def _is_whole_dialogue(cells: Mapping[str, Any], name: str) -> bool:
    """Whether a list of turns ends with a reply, or repeats the turns of `chosen`: then it is no context."""
    turns = cells[name]
    last = turns[-1] if turns else None
    role = _ROLES.get(str(last.get("role", last.get("from")))) if isinstance(last, dict) else None
    return role == "assistant"


def _is_conversation(cells: Mapping[str, Any]) -> bool:
    replies = [cells.get("chosen"), cells.get("rejected")]
    return all(isinstance(reply, list) for reply in replies) or all(isinstance(reply, dict) for reply in replies)


def _conversation(place: str, cells: Mapping[str, Any]) -> ForeignPair:
    """Return a row whose replies are turns, or lists that may begin with the turns before."""
    chosen, rejected = cells["chosen"], cells["rejected"]
    if isinstance(chosen, dict):
        chosen, rejected = [chosen], [rejected]
    prompt, before = cells.get("prompt"), _turns_before(place, cells)
    shortest = max(0, min(len(chosen), len(rejected)) - 1)
    shared = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
    if isinstance(prompt, list):
        turns = (*before, *_turns(place, prompt))
        if prompt and chosen[: len(prompt)] == rejected[: len(prompt)] == prompt:
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    elif shared:  # the whole dialogue: a prompt beside it repeats its turn
        turns = (*(turn for turn in before if turn.role == "system"), *_turns(place, chosen[:shared]))
        chosen, rejected = chosen[shared:], rejected[shared:]
    elif prompt is not None:
        raise DataError(f"{place}: 'prompt' must be a list of turns, as 'chosen' is")
    else:
        question = _question(place, cells)
        turns = (*before, Message("user", question)) if question else before
    replies = _turns(place, [*chosen, *rejected])
    if len(chosen) != 1 or len(rejected) != 1 or any(reply.role != "assistant" for reply in replies):
        raise DataError(f"{place}: 'chosen' and 'rejected' must differ in one assistant turn")
    if not turns:
        raise _unknown(place, cells)
    return ForeignPair(turns, "", replies[0].content, rejected=replies[1].content, ends=(True, True))


def _turns(place: str, turns: list[Any]) -> tuple[Message, ...]:
    """Return turns of {role, content} or ShareGPT's {from, value}. Raises DataError."""
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, dict) or not ({"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys()):
            raise DataError(f"{place}: a turn needs 'role' and 'content'")
        role, content = (turn["role"], turn["content"]) if "role" in turn else (turn["from"], turn["value"])
        if not isinstance(content, str):
            raise DataError(f"{place}: a turn's 'content' must be text")
        if role not in _ROLES:
            raise DataError(f"{place}: a turn's role is system, user or assistant, not '{role}'")
        messages.append(Message(_ROLES[role], content))
    return tuple(messages)


def _is_export(cells: Mapping[str, Any]) -> bool:
    return isinstance(cells.get("question"), str) and isinstance(cells.get("prefix"), list)


def _without_additions(cells: Mapping[str, Any], pair: ForeignPair) -> ForeignPair:
    """Return the pair of an exported row as it was: without the end-of-turn text that the export put behind ended
    steps, ended where the search ended, with its question and steps."""
    if not _is_export(cells):
        return pair
    pair = replace(pair, question=cells["question"], steps=tuple(map(str, cells["prefix"])))
    ends, end = cells.get("ends"), cells.get("end") or ""
    if not isinstance(ends, dict) or not isinstance(end, str):
        return pair
    chosen_ends, rejected_ends = ends.get("chosen") is True, ends.get("rejected") is True
    return replace(
        pair,
        chosen=pair.chosen.removesuffix(end) if chosen_ends else pair.chosen,
        rejected=pair.rejected.removesuffix(end) if rejected_ends else pair.rejected,
        ends=(chosen_ends, rejected_ends),
    )


def _common_text(a: str, b: str) -> str:
    """Return the beginning that both share, up to a space: TRL's rule for a row without a prompt."""
    length = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[: length - 1] if length and a[length - 1] == " " else a[:length]
