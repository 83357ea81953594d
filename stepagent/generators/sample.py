"""Sample w next steps from a backend, merge equal ones, mark those whose form is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from stepagent.config.prompts import load_prompt
from stepagent.config.settings import Positive
from stepagent.generators.boundaries import BoundaryKind, content, terminator
from stepagent.interfaces import Backend
from stepagent.tree import joined_ids, joined_text
from stepagent.types import (
    Candidate,
    Completion,
    Completions,
    Message,
    Problem,
    Prompt,
    Proposal,
    Sampling,
    Step,
    Usage,
)


class SampleGenerator:
    """The paper's generator: w independent samples of the next step (T=0.5, top_p=0.95).

    `boundary` says where a step ends; `max_tokens` bounds one step: a step that reaches it is marked
    runaway. A generator's prompt needs the placeholder {question}.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: str = "solve",
        boundary: BoundaryKind = "marker",
        temperature: Annotated[float, Field(ge=0)] = 0.5,
        top_p: Annotated[float, Field(gt=0, le=1)] = 0.95,
        max_tokens: Positive = 512,
    ) -> None:
        self._backend = backend
        self.model: str = getattr(backend, "model", "")
        self._template = load_prompt(prompt, ("question",))
        self._boundary: BoundaryKind = boundary
        self._temperature = temperature
        self._top_p = top_p
        self._max_tokens = max_tokens

    def most(self, width: int) -> dict[str, Usage]:
        """The most that one call can sample, by model."""
        return {self.model: Usage(1, 0, width * self._max_tokens)}

    async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
        """See Generator."""
        depth = len(prefix) + 1
        sampling = Sampling(
            n=width,
            temperature=self._temperature,
            top_p=self._top_p,
            max_tokens=self._max_tokens,
            stop=(terminator(self._boundary, depth),),
            seed=seed,
        )
        prompt, reply = await self._ask(problem, prefix, sampling)
        steps = [_step(it, content(self._boundary, depth, it.text)) for it in reply.choices]
        return _proposal(prompt, reply, merge(steps, prefix))

    async def solve(
        self, problem: Problem, count: int, max_tokens: int, seed: int, *, greedy: bool = False
    ) -> Proposal:
        """See Solver."""
        sampling = Sampling(max_tokens=max_tokens, seed=seed)
        if not greedy:
            sampling = replace(sampling, n=count, temperature=self._temperature, top_p=self._top_p)
        prompt, reply = await self._ask(problem, (), sampling)
        found = merge([_step(it, it.text.strip()) for it in reply.choices], ())
        # a solution that goes round and yet ends is one
        kept = tuple(
            replace(it, flaws=tuple(flaw for flaw in it.flaws if flaw != "repeating")) for it in found
        )
        return _proposal(prompt, reply, kept)

    async def _ask(
        self, problem: Problem, prefix: Sequence[Step], sampling: Sampling
    ) -> tuple[Prompt, Completions]:
        prompt = continue_from(self._template.messages({"question": problem.question}), prefix)
        return prompt, await self._backend.complete(prompt, sampling)


def _proposal(prompt: Prompt, reply: Completions, candidates: tuple[Candidate, ...]) -> Proposal:
    ids = reply.prompt_ids
    if ids is not None and prompt.prefix_ids is not None:
        ids = ids[: len(ids) - len(prompt.prefix_ids)]
    else:
        ids = None
    context = reply.prompt_text.removesuffix(prompt.prefix_text)
    return Proposal(context, ids, candidates, reply.usage, reply.tokenizer_sha256)


def _step(choice: Completion, said: str) -> Step:
    return Step(
        text=choice.text,
        content=said,
        finish_reason=choice.finish_reason,
        ends=choice.finish_reason == "end",
        token_ids=choice.token_ids,
        logprob=sum(choice.logprobs) if choice.logprobs is not None else None,
    )


def continue_from(messages: tuple[Message, ...], prefix: Sequence[Step]) -> Prompt:
    """The prompt whose half-written assistant turn is `prefix`, token by token where ids are known."""
    return Prompt(messages, joined_text(prefix), joined_ids(prefix))


def merge(steps: Sequence[Step], prefix: Sequence[Step]) -> tuple[Candidate, ...]:
    """Distinct steps in the order first sampled, each with its count and its flaws.

    Steps are equal if their contents are, white space aside, and both or neither end the solution.
    """
    groups: dict[tuple[str, bool, bool], list[Step]] = {}
    for step in steps:
        key = (" ".join(step.content.split()), step.ends, step.finish_reason == "length")
        groups.setdefault(key, []).append(step)
    said = {" ".join(step.content.split()) for step in prefix}
    return tuple(
        Candidate(group[0], len(group), flaws(group[0], key[0] in said)) for key, group in groups.items()
    )


def goes_round(text: str) -> bool:
    """Whether a text closes with five copies of the same piece of words, 20 characters or more in all.
    (Digits alone may repeat, as in 0.3333.)"""
    for length in range(2, 81):
        piece = text[-length:]
        if 5 * length >= 20 and text.endswith(piece * 5) and any(c.isalpha() for c in piece):
            return True
    return False


def flaws(step: Step, said_before: bool) -> tuple[Literal["empty", "runaway", "repeating"], ...]:
    """What is wrong with a step's form; such a step is kept in the tree but never judged or followed."""
    found: list[Literal["empty", "runaway", "repeating"]] = []
    if not step.content:
        found.append("empty")
    if step.finish_reason == "length":
        found.append("runaway")
    if step.content and (said_before or goes_round(step.content)):
        found.append("repeating")
    return tuple(found)
