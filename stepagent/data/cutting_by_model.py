"""Solutions cut into steps by a model, which may change nothing: each reply is written as it comes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stepagent.assembly.session import Session
from stepagent.config.prompts import PromptTemplate, load_prompt
from stepagent.data.cutting import joins_exactly
from stepagent.errors import BackendError
from stepagent.files.resumable import ResumableFile, fill
from stepagent.files.runs import hash_data, hash_path
from stepagent.interfaces import Backend
from stepagent.seeds import derive_seed
from stepagent.types import ModelVersion, Prompt, Sampling

_TOKENS = 4096
_FAILED = "the model's request failed"


@dataclass(frozen=True, slots=True)
class ModelCut:
    """A solution's steps, or the reason why there are none; `key` is the `cut_key` of its text."""

    key: str
    steps: tuple[str, ...] = ()
    reason: Literal["", "the model's request failed", "the model changed the text", "the model made no cut"] = ""


def cut_key(question: str, solution: str) -> str:
    """Return a name that is the same for the same texts."""
    return f"{derive_seed(question, solution):016x}"


def cut_by_model(
    session: Session, model: ModelVersion, solutions: Mapping[str, tuple[str, str]]
) -> dict[str, ModelCut]:
    """Have (question, solution) pairs cut, by their `cut_key`. Replies go to cuts_*.jsonl in the session's folder as
    they come; nothing is asked for twice but failed requests. Raises ConfigError or ModelError."""
    seed, template = session.config.seed, load_prompt("cut_steps", ("question", "solution"))
    made_by = [session.binder.backend().identity(), hash_path(Path(model.path)), seed, hash_path(template.path)]
    backend = session.backend(model)

    async def cut(item: tuple[str, tuple[str, str]]) -> ModelCut:
        key, texts = item
        return await _cut(backend, template, key, texts=texts, seed=seed)

    with ResumableFile(
        session.folder / f"cuts_{hash_data(made_by)[:12]}.jsonl",
        ModelCut,
        key=lambda row: row.key,
        failed=lambda row: row.reason == _FAILED,
    ) as file:
        items = ((key, (key, texts)) for key, texts in solutions.items())
        total, concurrency = len(solutions), session.config.concurrency
        session.run(fill(file, items, cut, label="cut by the model", total=total, concurrency=concurrency))
        return {row.key: row for row in file}


async def _cut(backend: Backend, template: PromptTemplate, key: str, *, texts: tuple[str, str], seed: int) -> ModelCut:
    question, solution = texts
    prompt = Prompt(template.messages({"question": question, "solution": solution}))
    sampling = Sampling(max_tokens=_TOKENS, seed=derive_seed(seed, "cut", question))
    try:
        choice = (await backend.complete(prompt, sampling)).choices[0]
    except BackendError:
        return ModelCut(key, reason="the model's request failed")
    pieces = (piece.strip() for piece in re.split(r"(?m)^[ \t]*###[ \t]*$", choice.text))
    steps = tuple(piece for piece in pieces if piece)
    if choice.finish_reason != "end" or not joins_exactly(steps, solution):
        return ModelCut(key, reason="the model changed the text")
    return ModelCut(key, steps) if len(steps) > 1 else ModelCut(key, reason="the model made no cut")
