"""The thought of a reasoning model before its first step, where a reply can be continued exactly.

hidden   the thought is drawn once for the siblings of a first step, to its end, and stands in their context
off      an empty thought stands there, if the model opens one although it was asked not to
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

from stepagent.backends.thoughts import closing_of, left_open_by, opened_by
from stepagent.interfaces import Backend
from stepagent.seeds import derive_seed
from stepagent.types import Completion, Completions, Message, Prompt, Sampling, Usage

_BLANKS = 3  # tokens of white space behind a thought, at most
_NOTHING = Completion("", "stop", ())
_log = logging.getLogger("stepagent")


@dataclass(frozen=True, slots=True)
class Opening:
    """Replies to a prompt whose prefix is the thought before them. `unfinished`: the only reply is a thought without
    an end, and the prompt has no prefix."""

    prompt: Prompt
    reply: Completions
    unfinished: bool = False


class Thought:
    """The thought before the first step of `backend`'s model: drawn (hidden), or empty (off)."""

    def __init__(self, backend: Backend, thinking: Literal["off", "hidden"]) -> None:
        self._backend = backend
        self._thinking: Literal["off", "hidden"] = thinking
        self._mark: str | None = None  # the one with which the template opens a thought, once a reply has shown it
        self._empty: Completion | None = None  # the empty thought behind it
        self._sentences: set[str] = set()

    async def complete(self, messages: tuple[Message, ...], sampling: Sampling) -> Opening:
        """Return the first steps behind the thought, or without one where the model opens none. Raises BackendError."""
        prompt, opener, reply = Prompt(messages, thinking=self._thinking), _NOTHING, None
        mark = self._mark if self._thinking == "hidden" or self._empty else None
        if mark is None:
            # A sample that opens a thought stops there (thoughts.stops_of), which saves most of its cost.
            reply = await self._backend.complete(prompt, sampling)
            if reply.prompt_ids is not None:  # else the context is not as the template writes it
                mark = self._mark = left_open_by(reply.prompt_text)
            if mark is None:
                opener = next((choice for choice in reply.choices if opened_by(choice.text)), _NOTHING)
                mark = opened_by(opener.text)
                if mark and closing_of(mark) in opener.text:  # a short thought, whose ids are those of a step, too
                    opener = Completion(mark, "stop")
            if mark is None:
                return Opening(prompt, reply)
        usage = reply.usage if reply else Usage()
        if self._thinking == "off":
            self._say("generator.thinking: off: the model opens a thought all the same; an empty one takes its place")
            thought = self._empty or _empty(mark if opener.text else "", closing_of(mark))
        else:
            self._say("generator.thinking: hidden: the model thinks; one thought stands before each set of first steps")
            draft = await self._draw(Prompt(messages), sampling, opener, closing=closing_of(mark))
            thought, usage = draft.choices[0], usage + draft.usage
            if thought.finish_reason != "stop":
                self._say(
                    f"a thought had no end within generator.max_tokens ({sampling.max_tokens}): no step follows it; "
                    "raise it, or write generator.thinking: off"
                )
                return Opening(prompt, replace(draft, usage=usage), unfinished=True)
        prompt = replace(prompt, prefix_text=thought.text, prefix_ids=thought.token_ids)
        steps = await self._backend.complete(prompt, sampling)
        if prompt.prefix_ids is None and reply and reply.prompt_ids is not None and steps.prompt_ids is not None:
            prompt = replace(prompt, prefix_ids=steps.prompt_ids[len(reply.prompt_ids) :])
            if self._mark:
                self._empty = replace(thought, token_ids=prompt.prefix_ids)
        return Opening(prompt, replace(steps, usage=usage + steps.usage))

    async def _draw(self, prompt: Prompt, sampling: Sampling, opener: Completion, *, closing: str) -> Completions:
        """Return one thought, from `opener`, the beginning that was sampled, to its end. Blanks behind it belong to it
        where a step would end with them."""
        seed = derive_seed(sampling.seed, "thought")
        reply = await self._continued(prompt, opener, replace(sampling, n=1, stop=(closing,), seed=seed))
        thought, usage = reply.choices[0], reply.usage
        if thought.finish_reason == "stop" and any(stop.isspace() for stop in sampling.stop):
            for number in range(_BLANKS):
                token = replace(sampling, n=1, stop=(), max_tokens=1, seed=derive_seed(seed, number))
                blank = await self._continued(prompt, thought, token)
                usage += blank.usage
                if not blank.choices[0].text[len(thought.text) :].isspace():
                    break
                thought = replace(blank.choices[0], finish_reason="stop")
        return replace(reply, choices=(thought,), usage=usage)

    async def _continued(self, prompt: Prompt, opener: Completion, sampling: Sampling) -> Completions:
        """Return the sample that continues `opener`, as one completion from its beginning on."""
        request = replace(prompt, prefix_text=opener.text, prefix_ids=opener.token_ids)
        reply = await self._backend.complete(request, sampling)
        sequel, ids, context_ids = reply.choices[0], None, None
        if opener.token_ids is not None and sequel.token_ids is not None and reply.prompt_ids is not None:
            ids = opener.token_ids + sequel.token_ids
            context_ids = reply.prompt_ids[: len(reply.prompt_ids) - len(opener.token_ids)]
        choice = Completion(opener.text + sequel.text, sequel.finish_reason, ids)
        context = reply.prompt_text.removesuffix(opener.text)
        return replace(reply, choices=(choice,), prompt_text=context, prompt_ids=context_ids)

    def _say(self, sentence: str) -> None:
        if sentence not in self._sentences:
            self._sentences.add(sentence)
            _log.warning("%s", sentence)


def _empty(mark: str, closing: str) -> Completion:
    """Return the thought without a word that opens with `mark`, in the form of Qwen3's template."""
    return Completion(f"{mark and mark + chr(10)}\n{closing}\n\n", "stop")
