"""Sample w next steps from a backend, merge equal ones, mark those whose form is broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from stepagent.config import Positive
from stepagent.generators.boundaries import BoundaryKind, content, terminator
from stepagent.interfaces import Backend
from stepagent.prompting import load_prompt
from stepagent.tree import joined_ids
from stepagent.types import (
    Candidate,
    Completion,
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
        self._template = load_prompt(prompt, ("question",))
        self._boundary: BoundaryKind = boundary
        self._temperature = temperature
        self._top_p = top_p
        self._max_tokens = max_tokens

    def most(self, width: int) -> dict[str, Usage]:
        """The most that one call can sample, by model."""
        return {getattr(self._backend, "model", ""): Usage(1, 0, width * self._max_tokens)}

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
        messages = self._template.messages({"question": problem.question})
        prompt = continue_from(messages, prefix)
        reply = await self._backend.complete(prompt, sampling)
        steps = [self._step(choice, depth) for choice in reply.choices]
        ids = reply.prompt_ids
        if ids is not None and prompt.prefix_ids is not None:
            ids = ids[: len(ids) - len(prompt.prefix_ids)]
        else:
            ids = None
        return Proposal(
            context_text=reply.prompt_text.removesuffix(prompt.prefix_text),
            context_ids=ids,
            candidates=merge(steps, prefix),
            usage=reply.usage,
            tokenizer_sha256=reply.tokenizer_sha256,
        )

    def _step(self, choice: Completion, depth: int) -> Step:
        return Step(
            text=choice.text,
            content=content(self._boundary, depth, choice.text),
            finish_reason=choice.finish_reason,
            ends=choice.finish_reason == "end",
            token_ids=choice.token_ids,
            logprob=sum(choice.logprobs) if choice.logprobs is not None else None,
        )


def continue_from(messages: tuple[Message, ...], prefix: Sequence[Step]) -> Prompt:
    """The prompt whose half-written assistant turn is `prefix`, token by token where ids are known."""
    return Prompt(messages, "".join(step.text for step in prefix), joined_ids(prefix))


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
