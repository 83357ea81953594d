"""Chat APIs: a half-written reply is continued as text, or restated where the API cannot continue one."""

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
    """Backend over the chat API of `endpoint`, within its `abilities`. See Backend for `complete`."""

    def __init__(self, endpoint: Endpoint, abilities: Abilities) -> None:
        self._endpoint = endpoint
        self._abilities = abilities
        self._samples: dict[tuple[Prompt, Sampling], dict[int, Completions]] = {}
        self._continue = load_prompt("continue_step", ("task", "prefix", "end"))

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Send one request, or one per sample where the endpoint takes no `n`."""
        if sampling.n > 1 and "n" not in self._abilities.takes:
            return await self._one_by_one(prompt, sampling)
        samples, reply = await self._endpoint.choices("chat/completions", self._body(prompt, sampling))
        counts = reply.get("usage") or {}
        usage = Usage(1, counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0))
        choices = tuple(self._choice(choice, prompt, sampling) for choice in samples)
        return Completions(choices, plain(prompt), None, usage)

    async def _one_by_one(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Ask for the samples one by one; a retry after a failure asks only for the missing ones."""
        samples = self._samples.setdefault((prompt, sampling), {})
        missing = [k for k in range(sampling.n) if k not in samples]
        requests = [replace(sampling, n=1, seed=sampling.seed + k) for k in missing]
        tasks = [asyncio.create_task(self.complete(prompt, request)) for request in requests]
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        samples |= {k: task.result() for k, task in zip(missing, tasks, strict=True) if not task.exception()}
        for task in tasks:
            if error := task.exception():
                raise error
        replies = [samples[k] for k in range(sampling.n)]
        del self._samples[prompt, sampling]
        usage = sum((reply.usage for reply in replies), Usage())
        return replace(replies[0], choices=tuple(reply.choices[0] for reply in replies), usage=usage)

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        abilities, messages = self._abilities, prompt.messages
        body: dict[str, Any] = {abilities.limit: sampling.max_tokens}
        if sampling.n > 1:
            body["n"] = sampling.n
        if "sampling" in abilities.takes:
            body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if "seed" in abilities.takes:
            body["seed"] = sampling.seed % 2**31
        if sampling.top_logprobs:
            if "logprobs" not in abilities.takes:
                raise ConfigError(f"{self._endpoint.url} gives no log-probabilities; judge with kind: pairwise there")
            body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        if abilities.way == "restate" and (prompt.prefix_text or sampling.stop):
            messages = self._restated(prompt)
        elif abilities.way == "prefill" and prompt.prefix_text:
            messages = (*messages, Message("assistant", prompt.prefix_text))
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if abilities.way == "prefill" and sampling.stop:
            body |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        return {**body, "messages": turns(messages)}

    def _choice(self, choice: dict[str, Any], prompt: Prompt, sampling: Sampling) -> Completion:
        completion = read_choice(self._endpoint, choice)
        if sampling.top_logprobs:
            completion = replace(completion, first=first_tokens(choice))
        if self._abilities.way == "prefill":
            return _stopped(completion, choice.get("stop_reason"))
        return _next_step(completion, prompt.prefix_text, sampling.stop) if sampling.stop else completion

    def _restated(self, prompt: Prompt) -> tuple[Message, ...]:
        *before, task = prompt.messages
        values = {"task": task.content, "prefix": prompt.prefix_text or "(nothing yet)", "end": _END}
        return (*before, self._continue.messages(values)[0])


def read_choice(endpoint: Endpoint, choice: dict[str, Any]) -> Completion:
    """Return a chat's reply without the <think> block that some models put before it. Raises BackendError for
    a refusal."""
    message = choice["message"]
    if message.get("refusal"):
        raise BackendError(f"{endpoint.url}: refused: {message['refusal'][:200]}")
    return Completion(_THOUGHT.sub("", message.get("content") or ""), endpoint.reason(choice))


def first_tokens(choice: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """Return the likeliest first tokens of a chat's reply with their log-probabilities (nats)."""
    alternatives = choice["logprobs"]["content"][0]["top_logprobs"]
    return tuple((token["token"], token["logprob"]) for token in alternatives)


def plain(prompt: Prompt) -> str:
    """Return the context as plain text, for servers that do not show their chat template."""
    return "".join(turn.content + "\n\n" for turn in prompt.messages) + prompt.prefix_text


def _stopped(reply: Completion, stop: object) -> Completion:
    """Return a reply that the string `stop` ended with that string in its text; any other reply unchanged."""
    if reply.finish_reason != "end" or not isinstance(stop, str):
        return reply
    return Completion(reply.text if reply.text.endswith(stop) else reply.text + stop, "stop")


def _next_step(reply: Completion, prefix: str, stop: tuple[str, ...]) -> Completion:
    """Return the step that continues `prefix`, out of a reply to a restated prompt.

    The step is the reply up to the first stop string, without a repeated end of the prefix. The mark of a
    finished solution becomes the finish reason "end"; a step without either gets the first stop string.
    """
    text = reply.text.lstrip()
    # A chat model often opens by repeating the line that it was asked to go on from.
    tail = prefix.rpartition("\n")[2].strip()
    if tail and text.startswith(tail):
        text = text[len(tail) :]
    # A new reply begins without the blank that a continued one would have sampled.
    if prefix and not prefix[-1].isspace() and text and not text[0].isspace():
        text = " " + text
    # Blanks at the very end close the reply; they are no terminator with another step behind it.
    cut = min((text.index(mark) + len(mark) for mark in stop if mark in text.rstrip()), default=None)
    if cut is not None:
        return Completion(text[:cut], "stop")
    if reply.finish_reason != "end":
        return Completion(text, reply.finish_reason)
    if _END in text:
        return Completion(text.replace(_END, "").rstrip(), "end")
    # The model closed its turn where a continued reply would have sampled the terminator.
    return Completion(text.rstrip() + stop[0], "stop")
