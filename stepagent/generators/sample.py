"""Sampling of w next steps from a backend: equal ones are merged, those of a broken form marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from stepagent.backends.thoughts import left_open_by, without_thought
from stepagent.config.prompts import SolvePrompt, load_solve_prompt
from stepagent.config.settings import Positive
from stepagent.generators.boundaries import BoundaryKind, content, terminator
from stepagent.generators.thinking import Opening, Thought
from stepagent.interfaces import Backend, model_name
from stepagent.tree import context_text, joined_ids
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
    Thinking,
    Usage,
)


class SampleGenerator:
    """The paper's generator (arXiv 2503.03746): w independent samples of the next step (T=0.5, top_p=0.95).

    `boundary` is the convention for the end of a step; a step that reaches `max_tokens` is marked runaway.
    `thinking` is the place of a reasoning model's thought. off: the chat template or the server is asked not to think;
    hidden: the thought stands before the first step, counted but no part of it; steps: the thought is the solution
    whose steps are searched. The prompt file needs {question}.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: SolvePrompt = "solve",
        boundary: BoundaryKind = "marker",
        *,
        temperature: Annotated[float, Field(ge=0)] = 0.5,
        top_p: Annotated[float, Field(gt=0, le=1)] = 0.95,
        max_tokens: Positive = 512,
        thinking: Thinking = "hidden",
    ) -> None:
        self._backend = backend
        self._thinking = thinking
        self._thought = None if thinking == "steps" else Thought(backend, thinking)
        self.model: str = model_name(backend)
        self._template = load_solve_prompt(prompt)
        self._boundary: BoundaryKind = boundary
        self._temperature = temperature
        self._top_p = top_p
        self._max_tokens = max_tokens

    def most(self, width: int) -> dict[str, Usage]:
        """Return the most that one call can sample, by model."""
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
        messages = self._messages(problem)
        if prefix or self._thought is None:
            prompt = Prompt(messages, context_text(prefix), joined_ids(prefix), self._thinking)
            opening = Opening(prompt, await self._backend.complete(prompt, sampling))
        else:
            opening = await self._thought.complete(messages, sampling)
        texts = [
            "" if opening.unfinished else content(self._boundary, depth, choice.text)
            for choice in opening.reply.choices
        ]
        return _proposal(opening, texts, prefix)

    async def solve(
        self, problem: Problem, count: int, max_tokens: int, seed: int, *, greedy: bool = False
    ) -> Proposal:
        """See Solver. With `thinking: hidden` each solution has a thought of its own, which is not kept."""
        sampling = Sampling(max_tokens=max_tokens, seed=seed)
        if not greedy:
            sampling = replace(sampling, n=count, temperature=self._temperature, top_p=self._top_p)
        messages = self._messages(problem)
        if self._thought is not None and self._thinking == "off":
            opening = await self._thought.complete(messages, sampling)
        else:
            prompt = Prompt(messages, thinking=self._thinking)
            opening = Opening(prompt, await self._backend.complete(prompt, sampling))
        if self._thinking == "hidden":
            opening = replace(opening, reply=_without_thoughts(opening.reply))
        proposal = _proposal(opening, [choice.text.strip() for choice in opening.reply.choices], ())
        # A whole solution that repeats itself and still ends has an answer: repeating is no flaw here.
        candidates = tuple(
            replace(candidate, flaws=tuple(flaw for flaw in candidate.flaws if flaw != "repeating"))
            for candidate in proposal.candidates
        )
        return replace(proposal, candidates=candidates)

    def _messages(self, problem: Problem) -> tuple[Message, ...]:
        return self._template.messages({"question": problem.question})


def _without_thoughts(reply: Completions) -> Completions:
    """Return whole solutions without their thoughts. One that had a thought has no token ids, since its context is not
    that of the others; one whose thought does not end is empty."""
    opens = reply.prompt_ids is not None and left_open_by(reply.prompt_text) is not None

    def solution(choice: Completion) -> Completion:
        text = without_thought(choice.text)
        if text == choice.text and not opens:
            return choice
        unfinished = text is None or text == choice.text
        return Completion("" if unfinished else text or "", choice.finish_reason)

    return replace(reply, choices=tuple(map(solution, reply.choices)))


def _proposal(opening: Opening, contents: Sequence[str], prefix: Sequence[Step]) -> Proposal:
    """Return the proposal of an opening's replies, whose steps have these contents."""
    prompt, reply = opening.prompt, opening.reply
    thought = ("", ()) if prefix else (prompt.prefix_text, prompt.prefix_ids)
    steps = [_step(choice, text, thought) for choice, text in zip(reply.choices, contents, strict=True)]
    ids, prefix_ids = reply.prompt_ids, prompt.prefix_ids
    context_ids = None if ids is None or prefix_ids is None else ids[: len(ids) - len(prefix_ids)]
    context = reply.prompt_text.removesuffix(prompt.prefix_text)
    return Proposal(
        context,
        context_ids,
        merge(steps, prefix),
        usage=reply.usage,
        tokenizer_sha256=reply.tokenizer_sha256,
    )


def _step(choice: Completion, content: str, thought: tuple[str, tuple[int, ...] | None]) -> Step:
    return Step(
        text=choice.text,
        content=content,
        finish_reason=choice.finish_reason,
        ends=choice.finish_reason == "end",
        token_ids=choice.token_ids,
        logprob=sum(choice.logprobs) if choice.logprobs is not None else None,
        thought=thought[0],
        thought_ids=thought[1],
    )


def merge(steps: Sequence[Step], prefix: Sequence[Step]) -> tuple[Candidate, ...]:
    """Return the distinct steps in the order first sampled, each with its count and its flaws.

    Steps are equal if their contents are equal up to white space, and both or neither end the solution, and
    both or neither reached the token limit.
    """
    groups: dict[tuple[str, bool, bool], list[Step]] = {}
    for step in steps:
        key = (" ".join(step.content.split()), step.ends, step.finish_reason == "length")
        groups.setdefault(key, []).append(step)
    prefix_texts = {" ".join(step.content.split()) for step in prefix}
    return tuple(
        Candidate(replace(group[0], count=len(group)), flaws(group[0], key[0] in prefix_texts))
        for key, group in groups.items()
    )


def goes_round(text: str) -> bool:
    """Return whether a text closes with five copies of a piece of 2 to 80 characters, 20 or more in all.

    A piece without a letter may repeat, as in 0.3333.
    """
    for length in range(2, 81):
        piece = text[-length:]
        if 5 * length >= 20 and text.endswith(piece * 5) and any(c.isalpha() for c in piece):
            return True
    return False


def flaws(step: Step, in_prefix: bool) -> tuple[Literal["empty", "runaway", "repeating"], ...]:
    """Return the flaws of a step's form; `in_prefix` says that an earlier step has the same content.

    A step with a flaw is kept in the tree but never judged or followed.
    """
    names: list[Literal["empty", "runaway", "repeating"]] = []
    if not step.content:
        names.append("empty")
    if step.finish_reason == "length":
        names.append("runaway")
    if step.content and (in_prefix or goes_round(step.content)):
        names.append("repeating")
    return tuple(names)
