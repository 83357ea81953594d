"""The OpenAI-compatible backend: a vLLM server, or any hosted chat API.

What the endpoint can do is found out at the first request (`probe.py`); a half-written reply is continued in
the best way it allows. `endpoint.py` says what its failures mean.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepagent.backends.endpoint import Endpoint, turns
from stepagent.backends.limits import RateLimited
from stepagent.backends.probe import PROBE, Abilities, probe
from stepagent.backends.retry import Ready, Retrying
from stepagent.config import Positive
from stepagent.errors import BackendError, ConfigError
from stepagent.interfaces import Backend
from stepagent.prompting import load_prompt
from stepagent.types import Completion, Completions, Message, Prompt, Sampling, Usage

_RENDERED = 4096  # chat turns whose ids are remembered: all steps of a problem share theirs
_END = "[[END]]"
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


def openai_backend(
    base_url: str,
    model: str,
    api_key_env: str = "OPENAI_API_KEY",
    timeout: Positive = 600,
    attempts: Positive = 6,
    max_in_flight: Positive = 64,
    requests_per_minute: Positive | None = None,
    tokens_per_minute: Positive | None = None,
    tokenizer: str | None = None,
    version: str | None = None,
    ready: Ready | None = None,
) -> Backend:
    """`model` is the name the endpoint serves; `timeout` is in seconds. Requests that may succeed later are
    made up to `attempts` times, at most `max_in_flight` at once, and no faster than the endpoint's 429s and
    headers, or the limits given here, allow. `tokenizer`, the folder or hub id of the served model, lets
    `stepagent optimize` know whose token ids it is given. `version` tells apart weights that are served
    under one name; `ready` returns once the server can be asked."""
    endpoint = OpenAIBackend(base_url, model, api_key_env, timeout, tokenizer, version)
    limited = RateLimited(endpoint, requests_per_minute, tokens_per_minute)
    return Retrying(limited, attempts, max_in_flight, ready=ready)


@dataclass(frozen=True, slots=True)
class _Rendered:
    ids: tuple[int, ...]
    text: str
    window: int


class OpenAIBackend:
    """One request per call; what may succeed later raises TransientError. See `openai_backend`."""

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str,
        timeout: float,
        tokenizer: str | None = None,
        version: str | None = None,
    ) -> None:
        self._endpoint = Endpoint(base_url, model, api_key_env, timeout)
        self.model = model
        self.version = version or f"{model} at {self._endpoint.url}"
        self._continue = load_prompt("continue_step", ("task", "prefix", "end"))
        self._tokenizer = tokenizer
        self._sha256: str | None = None
        self._abilities: Abilities | None = None
        self._probing = asyncio.Lock()
        self._rendered: OrderedDict[tuple[Message, ...], _Rendered] = OrderedDict()

    @property
    def headers(self) -> Any:
        """The newest reply's headers."""
        return self._endpoint.headers

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend. Raises TransientError, BackendError or ConfigError."""
        can = await self.abilities()
        try:
            if can.way == "ids":
                return await self._by_ids(prompt, sampling)
            return await self._by_chat(prompt, sampling, can)
        except (KeyError, TypeError, AttributeError) as error:
            raise self._endpoint.unreadable(error) from None

    async def abilities(self) -> Abilities:
        """What the endpoint can do; it is asked once, while other requests wait."""
        async with self._probing:
            if self._abilities is None:
                can = await probe(self._endpoint)
                if can.way == "ids" and self._tokenizer:
                    self._sha256 = await self._same_tokenizer(self._tokenizer)
                self._abilities = can
        return self._abilities

    async def close(self) -> None:
        """Close the connections that are kept open between requests."""
        await self._endpoint.close()

    async def _same_tokenizer(self, name: str) -> str:
        from stepagent.checkpoints import load_tokenizer, render, tokenizer_sha256

        tokenizer = await asyncio.to_thread(load_tokenizer, name)
        ours = tuple(tokenizer(render(tokenizer, PROBE), add_special_tokens=False)["input_ids"])
        if ours != (await self._tokenise(PROBE)).ids:
            raise ConfigError(
                f"backend.tokenizer: {name} is not the tokenizer of what {self._endpoint.url} serves"
            )
        return tokenizer_sha256(tokenizer)

    async def _tokenise(self, messages: tuple[Message, ...]) -> _Rendered:
        if messages in self._rendered:
            self._rendered.move_to_end(messages)
            return self._rendered[messages]
        reply = await self._endpoint.post("/tokenize", {"messages": turns(messages)})
        ids = tuple(reply["tokens"])
        text = await self._detokenise(ids)
        self._rendered[messages] = _Rendered(ids, text, int(reply["max_model_len"]))
        if len(self._rendered) > _RENDERED:
            self._rendered.popitem(last=False)
        return self._rendered[messages]

    async def _detokenise(self, ids: Sequence[int]) -> str:
        return str((await self._endpoint.post("/detokenize", {"tokens": list(ids)}))["prompt"])

    async def _by_ids(self, prompt: Prompt, sampling: Sampling) -> Completions:
        rendered = await self._tokenise(prompt.messages)
        prefix = prompt.prefix_ids
        if prefix is None:
            asked = {"prompt": prompt.prefix_text, "add_special_tokens": False}
            prefix = tuple((await self._endpoint.post("/tokenize", asked))["tokens"])
        ids = rendered.ids + prefix
        room = rendered.window - len(ids)
        if room <= 0:
            raise BackendError(
                f"the context has {len(ids)} tokens and the server's window {rendered.window}; shorten the "
                "problem or the steps"
            )
        body = {
            "prompt": list(ids),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": min(sampling.max_tokens, room),
            "stop": list(sampling.stop) or None,
            "seed": sampling.seed % 2**31,
            "logprobs": 1,
            "return_token_ids": True,
            "include_stop_str_in_output": True,
        }
        found, _ = await self._endpoint.choices("completions", body)
        choices = tuple([await self._exact(choice) for choice in found])
        sampled = sum(len(choice.token_ids or ()) for choice in choices)
        text = rendered.text + prompt.prefix_text
        return Completions(choices, text, ids, Usage(1, len(ids), sampled), self._sha256)

    async def _exact(self, choice: dict[str, Any]) -> Completion:
        """A stop string may end inside its last token: the text goes on to that token's end."""
        ids = tuple(choice["token_ids"])
        reason, text = self._endpoint.reason(choice), choice["text"]
        if reason == "end" and isinstance(choice.get("stop_reason"), str):
            reason = "stop"
            last = (choice["logprobs"].get("tokens") or [""])[-1]
            if not last or not text.endswith(last):
                text = await self._detokenise(ids)
        return Completion(text, reason, ids, tuple(choice["logprobs"]["token_logprobs"]))

    async def _by_chat(self, prompt: Prompt, sampling: Sampling, can: Abilities) -> Completions:
        """One request, or one per sample where the endpoint takes no `n`."""
        if sampling.n > 1 and "n" not in can.takes:
            async with asyncio.TaskGroup() as group:
                single = [
                    group.create_task(
                        self._by_chat(prompt, replace(sampling, n=1, seed=sampling.seed + k), can)
                    )
                    for k in range(sampling.n)
                ]
            replies = [task.result() for task in single]
            usage = sum((reply.usage for reply in replies), Usage())
            return replace(replies[0], choices=tuple(reply.choices[0] for reply in replies), usage=usage)
        stepwise = bool(sampling.stop)
        body: dict[str, Any] = {"n": sampling.n} if sampling.n > 1 else {}
        body[can.limit] = sampling.max_tokens
        if "sampling" in can.takes:
            body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if "seed" in can.takes:
            body["seed"] = sampling.seed % 2**31
        messages = prompt.messages
        if can.way == "prefill" and stepwise:
            body |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        if can.way == "prefill" and prompt.prefix_text:
            messages = (*messages, Message("assistant", prompt.prefix_text))
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        elif can.way == "restate" and (prompt.prefix_text or stepwise):
            messages = self._restated(prompt)
        body["messages"] = turns(messages)
        found, used = await self._endpoint.choices("chat/completions", body)
        choices = []
        for choice in found:
            said = self._said(choice)
            if can.way == "prefill":
                choices.append(_stopped(said, choice.get("stop_reason")))
            else:
                choices.append(_next_step(said, prompt.prefix_text, sampling.stop) if stepwise else said)
        usage = Usage(1, used.get("prompt_tokens", 0), used.get("completion_tokens", 0))
        text = "\n\n".join(turn.content for turn in prompt.messages) + "\n\n" + prompt.prefix_text
        return Completions(tuple(choices), text, None, usage)

    def _restated(self, prompt: Prompt) -> tuple[Message, ...]:
        *before, task = prompt.messages
        values = {"task": task.content, "prefix": prompt.prefix_text or "(nothing yet)", "end": _END}
        return (*before, self._continue.messages(values)[0])

    def _said(self, choice: dict[str, Any]) -> Completion:
        """A chat's reply, without the reasoning that some models put before it."""
        message = choice["message"]
        if message.get("refusal"):
            raise BackendError(f"{self._endpoint.url}: refused: {message['refusal'][:200]}")
        return Completion(_THOUGHT.sub("", message.get("content") or ""), self._endpoint.reason(choice))


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
