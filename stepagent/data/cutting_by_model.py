"""Solutions cut into steps by a model, which may change nothing: each reply is kept as it comes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stepagent.assembly.components import make_components
from stepagent.assembly.identity import backend_identity
from stepagent.assembly.session import Resources
from stepagent.config.prompts import PromptTemplate, load_prompt
from stepagent.config.settings import Config
from stepagent.data.cutting import joins_exactly
from stepagent.errors import BackendError
from stepagent.files.resumable import append_all, resume
from stepagent.files.runs import hash_data, hash_path
from stepagent.interfaces import Backend
from stepagent.seeds import derive_seed
from stepagent.types import Prompt, Sampling

_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class ModelCut:
    """A solution's steps, or why there are none; `key` says of which text."""

    key: str
    steps: tuple[str, ...] = ()
    why: Literal["", "the model's request failed", "the model changed the text", "the model made no cut"] = ""


def cut_key(question: str, solution: str) -> str:
    """The same for the same texts."""
    return f"{derive_seed(question, solution):016x}"


def cut_by_model(
    config: Config, model: str, solutions: Mapping[str, tuple[str, str]], out: Path
) -> dict[str, ModelCut]:
    """Have (question, solution) pairs cut, by their `cut_key`. Replies go to `out`/cuts_*.jsonl as they come;
    what is there is not asked for again, but for requests that failed. Raises ConfigError or ModelError."""
    template = load_prompt("cut_steps", ("question", "solution"))
    made_by = hash_data([*backend_identity(config, model), config.seed, hash_path(template.path)])[:12]
    path = out / f"cuts_{made_by}.jsonl"
    done = resume(path, ModelCut, lambda cut: cut.key, lambda cut: cut.why == "the model's request failed")
    with Resources(config, out) as resources:
        backend = make_components(config, model, resources).backend

        async def ask(key: str, texts: tuple[str, str]) -> ModelCut:
            return await _ask(backend, template, key, *texts, config.seed)

        asked = append_all(path, "cut by the model", config.concurrency, solutions, done, ask)
        resources.run(asked)
    return done


async def _ask(
    backend: Backend, template: PromptTemplate, key: str, question: str, solution: str, seed: int
) -> ModelCut:
    prompt = Prompt(template.messages({"question": question, "solution": solution}))
    sampling = Sampling(max_tokens=_TOKENS, seed=derive_seed(seed, "cut", question))
    try:
        choice = (await backend.complete(prompt, sampling)).choices[0]
    except BackendError:
        return ModelCut(key, why="the model's request failed")
    pieces = (piece.strip() for piece in re.split(r"(?m)^[ \t]*###[ \t]*$", choice.text))
    steps = tuple(piece for piece in pieces if piece)
    if choice.finish_reason != "end" or not joins_exactly(steps, solution):
        return ModelCut(key, why="the model changed the text")
    return ModelCut(key, steps) if len(steps) > 1 else ModelCut(key, why="the model made no cut")
