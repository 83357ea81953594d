"""Chats: a half-written reply continued as text, or restated to an API that continues nothing."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

from stepagent.backends.endpoint import Endpoint, turns
from stepagent.backends.probe import Abilities
from stepagent.config.prompts import load_prompt
from stepagent.errors import BackendError, ConfigError
from stepagent.types import Completion, Completions, Message, Prompt, Sampling, Usage

_END = "[[END]]"
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


class Chat:
    """Asks `endpoint` as far as it `can`. See Backend for `complete`."""

    def __init__(self, endpoint: Endpoint, can: Abilities) -> None:
        self._endpoint = endpoint
        self._can = can
        self._samples: dict[tuple[Prompt, Sampling], dict[int, Completions]] = {}
        self._continue = load_prompt("continue_step", ("task", "prefix", "end"))

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """One request, or one per sample where the endpoint takes no `n`."""
        if sampling.n > 1 and "n" not in self._can.takes:
            return await self._one_by_one(prompt, sampling)
        found, reply = await self._endpoint.choices("chat/completions", self._body(prompt, sampling))
        used = reply.get("usage") or {}
        usage = Usage(1, used.get("prompt_tokens", 0), used.get("completion_tokens", 0))
        choices = tuple(self._choice(choice, prompt, sampling) for choice in found)
        return Completions(choices, plain(prompt), None, usage)

    async def _one_by_one(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Samples that came are kept while the others are asked for again."""
        kept = self._samples.setdefault((prompt, sampling), {})
        missing = [k for k in range(sampling.n) if k not in kept]
        single = [replace(sampling, n=1, seed=sampling.seed + k) for k in missing]
        tasks = [asyncio.create_task(self.complete(prompt, one)) for one in single]
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        kept |= {k: task.result() for k, task in zip(missing, tasks, strict=True) if not task.exception()}
        for task in tasks:
            if error := task.exception():
                raise error
        replies = [kept[k] for k in range(sampling.n)]
        del self._samples[prompt, sampling]
        usage = sum((reply.usage for reply in replies), Usage())
        return replace(replies[0], choices=tuple(reply.choices[0] for reply in replies), usage=usage)

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        can, messages = self._can, prompt.messages
        body: dict[str, Any] = {can.limit: sampling.max_tokens}
        if sampling.n > 1:
            body["n"] = sampling.n
        if "sampling" in can.takes:
            body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if "seed" in can.takes:
            body["seed"] = sampling.seed % 2**31
        if sampling.top_logprobs:
            if "logprobs" not in can.takes:
                raise ConfigError(
                    f"{self._endpoint.url} gives no log-probabilities; judge with kind: pairwise there"
                )
            body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        if can.way == "restate" and (prompt.prefix_text or sampling.stop):
            messages = self._restated(prompt)
        elif can.way == "prefill" and prompt.prefix_text:
            messages = (*messages, Message("assistant", prompt.prefix_text))
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if can.way == "prefill" and sampling.stop:
            body |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        return {**body, "messages": turns(messages)}

    def _choice(self, choice: dict[str, Any], prompt: Prompt, sampling: Sampling) -> Completion:
        text = said(self._endpoint, choice)
        if sampling.top_logprobs:
            text = replace(text, first=first_tokens(choice))
        if self._can.way == "prefill":
            return _stopped(text, choice.get("stop_reason"))
        return _next_step(text, prompt.prefix_text, sampling.stop) if sampling.stop else text

    def _restated(self, prompt: Prompt) -> tuple[Message, ...]:
        *before, task = prompt.messages
        values = {"task": task.content, "prefix": prompt.prefix_text or "(nothing yet)", "end": _END}
        return (*before, self._continue.messages(values)[0])


def said(endpoint: Endpoint, choice: dict[str, Any]) -> Completion:
    """A chat's reply, without the reasoning that some models put before it. Raises BackendError for a
    refusal."""
    message = choice["message"]
    if message.get("refusal"):
        raise BackendError(f"{endpoint.url}: refused: {message['refusal'][:200]}")
    return Completion(_THOUGHT.sub("", message.get("content") or ""), endpoint.reason(choice))


def first_tokens(choice: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """The likeliest first tokens of a chat's reply with their log-probabilities."""
    return tuple((it["token"], it["logprob"]) for it in choice["logprobs"]["content"][0]["top_logprobs"])


def plain(prompt: Prompt) -> str:
    """The context as it reads where the chat template is the server's secret."""
    return "".join(turn.content + "\n\n" for turn in prompt.messages) + prompt.prefix_text


def _stopped(said: Completion, stop: object) -> Completion:
    """The step owns the stop string that ended it."""
    if said.finish_reason != "end" or not isinstance(stop, str):
        return said
    return Completion(said.text if said.text.endswith(stop) else said.text + stop, "stop")


def _next_step(said: Completion, prefix: str, stop: tuple[str, ...]) -> Completion:
    """A restated reply as the step that continues `prefix`: what it repeats of the prefix' end goes, the
    mark of a finished solution becomes the end, anything after one step is cut, and a step that goes on owns
    the terminator that a continued reply would have sampled."""
    text = said.text.lstrip()
    tail = prefix.rpartition("\n")[2].strip()
    if tail and text.startswith(tail):
        text = text[len(tail) :]
    if prefix and not prefix[-1].isspace() and text and not text[0].isspace():
        text = " " + text
    cut = min((text.index(mark) + len(mark) for mark in stop if mark in text.rstrip()), default=None)
    if cut is not None:
        return Completion(text[:cut], "stop")
    if said.finish_reason != "end":
        return Completion(text, said.finish_reason)
    if _END in text:
        return Completion(text.replace(_END, "").rstrip(), "end")
    return Completion(text.rstrip() + stop[0], "stop")
