"""Chat APIs: a half-written reply is continued as text, or restated where the API cannot continue one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stepagent.backends.concessions import Concessions
from stepagent.backends.endpoint import Endpoint, turns
from stepagent.backends.probe import Abilities
from stepagent.backends.replies import count, logprob_of, one_line, server_words, text_of
from stepagent.backends.silence import silence
from stepagent.backends.thoughts import without_thought
from stepagent.config.prompts import PromptTemplate, load_prompt
from stepagent.errors import BackendError, ConfigError, RefusedError, TransientError
from stepagent.types import Completion, Completions, Message, Prompt, Sampling, Usage

_END = "[[END]]"


class _NoSeveral(Exception):
    """The endpoint does not take as many samples in one request."""


class Chat:
    """Backend over the chat API of `endpoint`, within its `abilities`. See Backend for `complete`."""

    def __init__(self, endpoint: Endpoint, abilities: Abilities) -> None:
        self._endpoint = endpoint
        self._abilities = abilities
        self._concessions = Concessions(endpoint.url)
        self._silence: Mapping[str, Any] | None = None
        self._silence_lock = asyncio.Lock()
        self._samples: dict[tuple[Prompt, Sampling], dict[int, Completions]] = {}
        self._continue_step = load_prompt("continue_step", ("task", "prefix", "end"))
        self._continue_solution = load_prompt("continue_solution", ("task", "prefix", "end"))

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Send one request, or one per sample where the endpoint takes no `n`. Raises ConfigError for a wish about
        thoughts that the endpoint cannot fulfil."""
        if prompt.thinking == "steps":
            raise ConfigError(
                f"generator.thinking: {self._endpoint.url} continues no thought; steps of a thought need token ids: "
                "vLLM with its /tokenize, or a model in this process"
            )
        if prompt.thinking == "off" and self._silence is None:
            async with self._silence_lock:
                if self._silence is None:
                    self._silence = await silence(self._endpoint, self._abilities.limit)
        if sampling.n > 1 and "n" not in self._abilities.takes:
            return await self._one_by_one(prompt, sampling)
        try:
            samples, reply = await self._ask(self._body(prompt, sampling))
        except _NoSeveral:
            self._abilities = replace(self._abilities, takes=self._abilities.takes - {"n"})
            return await self.complete(prompt, sampling)
        choices: list[Completion] = []
        failures: list[BackendError] = []
        for sample in samples:
            try:
                choices.append(self._choice(sample, prompt, sampling))
            except TransientError:
                raise
            except BackendError as error:  # a filter's refusal of one sample is none of the others
                failures.append(error)
        if not choices:
            raise failures[0]
        usage = counted(reply, prompt, sampling)
        if self._goes_on(prompt, sampling):
            limit = max(sampling.max_tokens - usage.completion_tokens // sampling.n, 0)
            for number, choice in enumerate(choices):
                if choice.finish_reason == "stop":
                    choices[number], cost = await self._rest(choice, prompt, replace(sampling, n=1, max_tokens=limit))
                    usage += cost
        return Completions(tuple(choices), plain(prompt), None, usage)

    def _goes_on(self, prompt: Prompt, sampling: Sampling) -> bool:
        """Whether a restated solution is continued to its end, not by a step."""
        return self._abilities.way == "restate" and bool(prompt.prefix_text) and not sampling.stop

    async def _rest(self, choice: Completion, prompt: Prompt, sampling: Sampling) -> tuple[Completion, Usage]:
        """Return a solution that its model left off before its end, continued to it, and the cost of that."""
        if not sampling.max_tokens:
            return replace(choice, finish_reason="length"), Usage()
        prompt = replace(prompt, prefix_text=prompt.prefix_text + choice.text, prefix_ids=None)
        reply = await self.complete(prompt, replace(sampling, seed=sampling.seed + 1))
        return replace(reply.choices[0], text=choice.text + reply.choices[0].text), reply.usage

    async def _ask(self, body: dict[str, Any]) -> tuple[list[Any], Mapping[str, Any]]:
        """Send a request; where the endpoint refuses a parameter, without it or with another value."""
        while True:
            conceded = self._concessions.apply(body)
            try:
                return await self._endpoint.choices("chat/completions", conceded)
            except (TransientError, RefusedError):
                raise
            except BackendError as error:
                words = str(error)
                if re.search(r"(?<!\w)n(?!\w)", words.removeprefix(self._endpoint.url)) and conceded.get("n", 1) > 1:
                    raise _NoSeveral from None
                if not self._concessions.learn(words.removeprefix(self._endpoint.url), conceded):
                    raise

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
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if "seed" in abilities.takes:
            body["seed"] = sampling.seed % 2**31
        if sampling.top_logprobs:
            if "logprobs" not in abilities.takes:
                raise ConfigError(f"{self._endpoint.url} gives no log-probabilities; judge with kind: pairwise there")
            body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        if abilities.way == "restate" and (prompt.prefix_text or sampling.stop):
            messages = self._restated(prompt, self._continue_step if sampling.stop else self._continue_solution)
        elif abilities.way == "prefill" and prompt.prefix_text:
            messages = (*messages, Message("assistant", prompt.prefix_text))
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if abilities.way == "prefill" and sampling.stop:
            body |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        if prompt.thinking == "off":
            body |= self._silence or {}
        return {**body, "messages": turns(messages)}

    def _choice(self, choice: dict[str, Any], prompt: Prompt, sampling: Sampling) -> Completion:
        completion = read_choice(self._endpoint, choice, sampling.max_tokens)
        if sampling.top_logprobs:
            completion = replace(completion, first=first_tokens(choice))
        if self._abilities.way == "prefill":
            return _stopped(completion, choice.get("stop_reason"))
        if self._goes_on(prompt, sampling):
            return _rest_of(completion, prompt.prefix_text)
        return _next_step(completion, prompt.prefix_text, sampling.stop) if sampling.stop else completion

    def _restated(self, prompt: Prompt, template: PromptTemplate) -> tuple[Message, ...]:
        *before, task = prompt.messages
        values = {"task": task.content, "prefix": prompt.prefix_text or "(nothing yet)", "end": _END}
        return (*before, template.messages(values)[0])


def read_choice(endpoint: Endpoint, choice: dict[str, Any], max_tokens: int) -> Completion:
    """Return a chat's reply without the thought that reasoning models put before it. Raises BackendError for a refusal,
    and for a thought that used up `max_tokens`."""
    message = choice["message"]
    if message.get("refusal"):
        raise BackendError(f"{endpoint.url}: refused: {one_line(str(message['refusal']))}")
    if choice.get("error"):
        raise BackendError(f"{endpoint.url}: {server_words(str(choice['error']).encode())}")
    reason = endpoint.reason(choice)
    content = _text(message.get("content"))
    text = without_thought(content)
    thought = message.get("reasoning_content") or message.get("reasoning")
    if reason == "length" and (text is None or (thought and not content)):
        raise BackendError(f"{endpoint.url}: the thought used up max_tokens ({max_tokens}); raise it")
    return Completion(text or "", reason)


def _text(content: Any) -> str:
    """Return the text of a message's content, which may come in parts; parts that are thoughts are left out."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, str) or part.get("type") in (None, "text", "output_text")]
        return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in parts)
    return content if isinstance(content, str) else ""


def counted(reply: Mapping[str, Any], prompt: Prompt, sampling: Sampling) -> Usage:
    """Return the tokens that a reply states; where it states none, the most that they can be: a token is at least a
    byte of the prompt, and a sample has at most max_tokens."""
    usage = reply.get("usage")
    prompt_tokens = count(usage, "prompt_tokens", "input_tokens", "prompt_token_count", "promptTokenCount")
    sampled = count(usage, "completion_tokens", "output_tokens", "candidates_token_count", "candidatesTokenCount")
    if prompt_tokens is None:
        prompt_tokens = len(plain(prompt).encode("utf-8", "replace"))
    return Usage(1, prompt_tokens, sampling.n * sampling.max_tokens if sampled is None else sampled)


def first_tokens(choice: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """Return the likeliest first tokens of a chat's reply with their log-probabilities (nats); those without one are
    left out. Raises BackendError for a reply without any."""
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        raise BackendError("a reply without log-probabilities; judge with kind: pairwise there")
    alternatives = content[0]["top_logprobs"]
    return tuple(
        (text_of(token["token"]), logprob_of(token["logprob"]))
        for token in alternatives
        if token.get("logprob") is not None
    )


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


def _rest_of(reply: Completion, prefix: str) -> Completion:
    """Return the reply that continues `prefix` to the end; it is none before the mark of a finished solution."""
    text = reply.text.strip()
    if prefix and not prefix[-1].isspace() and text:
        text = f"\n{text}"
    if reply.finish_reason == "end" and _END not in text:
        return Completion(text, "stop")
    return Completion(text.replace(_END, "").rstrip(), reply.finish_reason)
