"""Token ids in and out of a vLLM server, so that a step continues exactly the tokens sampled before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from stepagent.backends.chat import first_tokens, plain, read_choice
from stepagent.backends.endpoint import Endpoint, turns
from stepagent.backends.probe import PROBE
from stepagent.backends.replies import logprob_of, text_of
from stepagent.backends.thoughts import SWITCHES, stops_of
from stepagent.errors import BackendError
from stepagent.types import Completion, Completions, Message, Prompt, Sampling, Thinking, Usage

_CACHE_SIZE = 4096  # rendered chats that are kept: all steps of a problem share one


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A chat as the server renders it: token ids, their text, and the model's window (tokens)."""

    ids: tuple[int, ...]
    text: str
    window: int


def _window(length: object) -> int:
    """Return the model's window (tokens) that a server states; a large one if it states none."""
    return length if isinstance(length, int) and length > 0 else 1 << 20


def _ids(tokens: Iterable[object]) -> tuple[int, ...]:
    """Return token ids as a server sent them. Raises TypeError for anything else: it would be stored and trained on."""
    ids = tuple(tokens)
    for token in ids:
        if type(token) is not int or not 0 <= token < 2**31:
            raise TypeError(f"{token!r:.40} is no token id")
    return cast(tuple[int, ...], ids)


class TokenIds:
    """Backend over vLLM's token id API at `endpoint`. See Backend for `complete`.

    `tokenizer_sha256` is the hash of the served model's tokenizer, or None where it is not known.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.tokenizer_sha256: str | None = None
        self._endpoint = endpoint
        self._rendered: OrderedDict[tuple[tuple[Message, ...], Thinking | None], _Rendered] = OrderedDict()

    async def render(self, messages: tuple[Message, ...], thinking: Thinking | None = None) -> _Rendered:
        """Return the chat as the server renders it, from the cache if it was rendered lately. See Prompt."""
        key = messages, thinking
        if key in self._rendered:
            self._rendered.move_to_end(key)
            return self._rendered[key]
        body: dict[str, Any] = {"messages": turns(messages)}
        if switch := SWITCHES.get(thinking):
            body["chat_template_kwargs"] = switch
        reply = await self._endpoint.post("/tokenize", body)
        ids = _ids(reply["tokens"])
        text = await self._detokenise(ids)
        self._rendered[key] = _Rendered(ids, text, _window(reply.get("max_model_len")))
        if len(self._rendered) > _CACHE_SIZE:
            self._rendered.popitem(last=False)
        return self._rendered[key]

    async def _detokenise(self, ids: Sequence[int]) -> str:
        return text_of((await self._endpoint.post("/detokenize", {"tokens": list(ids)}))["prompt"])

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend. Raises BackendError if the context leaves no room for a token."""
        if not (prompt.prefix_text or sampling.stop or prompt.thinking):
            return await self._whole_reply(prompt, sampling)
        rendered = await self.render(prompt.messages, prompt.thinking)
        prefix = prompt.prefix_ids
        if prefix is None:
            request = {"prompt": prompt.prefix_text, "add_special_tokens": False}
            prefix = _ids((await self._endpoint.post("/tokenize", request))["tokens"])
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
            "stop": list(stops_of(prompt, sampling)) or None,
            "seed": sampling.seed % 2**31,
            "logprobs": 1,
            "return_token_ids": True,
            "include_stop_str_in_output": True,
        }
        samples, _ = await self._endpoint.choices("completions", body)
        choices = tuple([await self._exact(sample) for sample in samples])
        sampled = sum(len(choice.token_ids or ()) for choice in choices)
        text = rendered.text + prompt.prefix_text
        return Completions(
            choices, text, ids, usage=Usage(1, len(ids), sampled), tokenizer_sha256=self.tokenizer_sha256
        )

    async def _whole_reply(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Ask for a reply to its end, as judges do, in one request: the chat API renders and tokenises."""
        window = (await self.render(PROBE)).window
        body = {
            "messages": turns(prompt.messages),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": min(sampling.max_tokens, window),
            "seed": sampling.seed % 2**31,
            "logprobs": True,
            "top_logprobs": sampling.top_logprobs,
            "return_token_ids": True,
        }
        samples, reply = await self._endpoint.choices("chat/completions", body)
        choices = tuple(
            replace(
                read_choice(self._endpoint, choice, sampling.max_tokens),
                token_ids=_ids(choice["token_ids"]),
                logprobs=tuple(logprob_of(token["logprob"]) for token in choice["logprobs"]["content"]),
                first=first_tokens(choice) if sampling.top_logprobs else None,
            )
            for choice in samples
        )
        ids = _ids(reply["prompt_token_ids"])
        sampled = sum(len(choice.token_ids or ()) for choice in choices)
        return Completions(
            choices, plain(prompt), ids, usage=Usage(1, len(ids), sampled), tokenizer_sha256=self.tokenizer_sha256
        )

    async def _exact(self, choice: dict[str, Any]) -> Completion:
        """Return a choice as a Completion whose text goes on to the end of its last token."""
        ids = _ids(choice["token_ids"])
        reason, text = self._endpoint.reason(choice), text_of(choice["text"])
        # vLLM reports "stop" for the end of turn and for a stop string; only the latter is named.
        if reason == "end" and isinstance(choice.get("stop_reason"), str):
            reason = "stop"
            # vLLM cuts the text behind the stop string, even inside a token; the ids hold the whole token.
            last_token = (choice["logprobs"].get("tokens") or [""])[-1]
            # Usually the string ends with its token, which saves the request to detokenise.
            if not last_token or not text.endswith(last_token):
                text = await self._detokenise(ids)
        return Completion(text, reason, ids, tuple(map(logprob_of, choice["logprobs"]["token_logprobs"])))
