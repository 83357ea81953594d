"""The OpenAI-compatible backend: a vLLM server, or any hosted chat API.

A server that tokenises (vLLM) is given token ids and returns token ids: a step continues exactly the sampled
tokens before it. Any other endpoint is a chat API: it can judge, but it cannot continue a half-written reply.

What an endpoint's failures mean (one table, `_failure`):

429, 408, 409, 5xx, a dropped connection, a timeout, a reply without the asked choices   tried again
401, 403, 404, a request that no retry can mend                                      the run ends, ConfigError
400 and 422, a content filter's refusal                                              final, BackendError
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any

import openai

from stepagent.backends.retry import Retrying
from stepagent.config import Positive
from stepagent.errors import BackendError, ConfigError, TransientError
from stepagent.interfaces import Backend
from stepagent.types import Completion, Completions, FinishReason, Message, Prompt, Sampling, Usage

_RENDERED = 4096  # chat turns whose ids are remembered: all steps of a problem share theirs


def openai_backend(
    base_url: str,
    model: str,
    api_key_env: str = "OPENAI_API_KEY",
    timeout: Positive = 600,
    attempts: Positive = 6,
    max_in_flight: Positive = 64,
    tokenizer: str | None = None,
) -> Backend:
    """`model` is the name the endpoint serves; `timeout` is in seconds. Requests that may succeed later are
    made up to `attempts` times, at most `max_in_flight` at once. `tokenizer`, the folder or hub id of the
    served model, lets `stepagent optimize` know whose token ids it is given."""
    endpoint = OpenAIBackend(base_url, model, api_key_env, timeout, tokenizer)
    return Retrying(endpoint, attempts, max_in_flight)


_PROBE = (Message("user", "Is 7 < 11?"),)


@dataclass(frozen=True, slots=True)
class _Rendered:
    ids: tuple[int, ...]
    text: str
    window: int


def _turns(messages: Sequence[Message]) -> Any:
    return [{"role": turn.role, "content": turn.content} for turn in messages]


class OpenAIBackend:
    """One request per call; what may succeed later raises TransientError. See `openai_backend`."""

    def __init__(
        self, base_url: str, model: str, api_key_env: str, timeout: int, tokenizer: str | None = None
    ) -> None:
        if not base_url.rstrip("/").endswith("/v1"):
            raise ConfigError(f"backend.base_url: '{base_url}' should end in /v1; add it")
        self._url = base_url
        self._model = model
        self._key_env = api_key_env
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=os.environ.get(api_key_env) or "none",
            timeout=timeout,
            max_retries=0,
        )
        self._tokenises: bool | None = None
        self._tokenizer = tokenizer
        self._sha256: str | None = None
        self._rendered: OrderedDict[tuple[Message, ...], _Rendered] = OrderedDict()

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend. Raises TransientError, BackendError or ConfigError."""
        try:
            if self._tokenises is None:
                self._tokenises = await self._can_tokenise()
            return await (self._by_ids if self._tokenises else self._by_chat)(prompt, sampling)
        except openai.OpenAIError as error:
            raise self._failure(error) from None
        except (JSONDecodeError, KeyError, TypeError) as error:
            raise TransientError(f"{self._url}: a reply that cannot be read ({error!r})") from None

    async def close(self) -> None:
        """Close the connections that are kept open between requests."""
        await self._client.close()

    async def _can_tokenise(self) -> bool:
        try:
            await self._tokenise(_PROBE)
        except openai.APIStatusError as error:
            if error.status_code not in (403, 404, 405, 501):
                raise
            served = [entry.id async for entry in self._client.models.list()]
            if self._model not in served:
                names = ", ".join(served[:8])
                raise ConfigError(
                    f"backend.model: {self._url} does not serve '{self._model}'; it has {names}"
                ) from None
            return False
        if self._tokenizer:
            self._sha256 = self._same_tokenizer(self._tokenizer)
        return True

    def _same_tokenizer(self, name: str) -> str:
        from stepagent.checkpoints import load_tokenizer, render, tokenizer_sha256

        tokenizer = load_tokenizer(name)
        if (
            tuple(tokenizer(render(tokenizer, _PROBE), add_special_tokens=False)["input_ids"])
            != self._rendered[_PROBE].ids
        ):
            raise ConfigError(f"backend.tokenizer: {name} is not the tokenizer of what {self._url} serves")
        return tokenizer_sha256(tokenizer)

    async def _tokenise(self, messages: tuple[Message, ...]) -> _Rendered:
        if messages in self._rendered:
            self._rendered.move_to_end(messages)
            return self._rendered[messages]
        asked = {"model": self._model, "messages": _turns(messages), "add_generation_prompt": True}
        reply = await self._server("tokenize", asked)
        ids = tuple(reply["tokens"])
        text = await self._detokenise(ids)
        self._rendered[messages] = _Rendered(ids, text, int(reply["max_model_len"]))
        if len(self._rendered) > _RENDERED:
            self._rendered.popitem(last=False)
        return self._rendered[messages]

    async def _detokenise(self, ids: tuple[int, ...]) -> str:
        reply = await self._server("detokenize", {"model": self._model, "tokens": list(ids)})
        return str(reply["prompt"])

    async def _server(self, path: str, body: dict[str, Any]) -> Any:
        """vLLM's own endpoints stand beside /v1."""
        root = self._url.rstrip("/").removesuffix("/v1")
        return await self._client.post(f"{root}/{path}", body=body, cast_to=object)

    async def _by_ids(self, prompt: Prompt, sampling: Sampling) -> Completions:
        rendered = await self._tokenise(prompt.messages)
        prefix = prompt.prefix_ids
        if prefix is None:
            reply = await self._server(
                "tokenize", {"model": self._model, "prompt": prompt.prefix_text, "add_special_tokens": False}
            )
            prefix = tuple(reply["tokens"])
        ids = rendered.ids + prefix
        room = rendered.window - len(ids)
        if room <= 0:
            raise BackendError(
                f"the context has {len(ids)} tokens and the server's window {rendered.window}; shorten the "
                "problem or the steps"
            )
        reply = await self._client.completions.create(
            model=self._model,
            prompt=list(ids),
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            stop=list(sampling.stop) or None,
            seed=sampling.seed % 2**31,
            logprobs=1,
            extra_body={"return_token_ids": True, "include_stop_str_in_output": True},
        )
        self._check_count(reply.choices, sampling)
        choices = [await self._exact(choice) for choice in reply.choices]
        sampled = sum(len(choice.token_ids or ()) for choice in choices)
        text = rendered.text + prompt.prefix_text
        return Completions(tuple(choices), text, ids, Usage(1, len(ids), sampled), self._sha256)

    async def _exact(self, choice: Any) -> Completion:
        """A stop string may end inside its last token: the text goes on to that token's end."""
        ids = tuple(getattr(choice, "token_ids", None) or ())
        if not ids or choice.logprobs is None:
            raise TransientError(f"{self._url}: a choice without token ids")
        stopped = getattr(choice, "stop_reason", None)
        reason = self._reason(choice)
        text = choice.text
        if reason == "end" and isinstance(stopped, str):
            reason = "stop"
            text = await self._detokenise(ids)
        return Completion(text, reason, ids, tuple(choice.logprobs.token_logprobs))

    async def _by_chat(self, prompt: Prompt, sampling: Sampling) -> Completions:
        if prompt.prefix_text or sampling.stop:
            raise ConfigError(
                f"{self._url} cannot continue a half-written reply, so it can judge but not propose steps; "
                "use it as judge.backend, and generate on vLLM or in process"
            )
        reply = await self._client.chat.completions.create(
            model=self._model,
            messages=_turns(prompt.messages),
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_completion_tokens=sampling.max_tokens,
        )
        self._check_count(reply.choices, sampling)
        choices = [Completion(c.message.content or "", self._reason(c)) for c in reply.choices]
        used = reply.usage
        usage = Usage(1, used.prompt_tokens, used.completion_tokens) if used else Usage(1)
        text = "\n".join(turn.content for turn in prompt.messages)
        return Completions(tuple(choices), text, None, usage)

    def _check_count(self, choices: Sequence[object], sampling: Sampling) -> None:
        if len(choices) != sampling.n:
            raise TransientError(f"{self._url}: {len(choices)} choices instead of {sampling.n}")

    def _reason(self, choice: Any) -> FinishReason:
        ends: dict[str, FinishReason] = {"stop": "end", "length": "length"}
        if choice.finish_reason not in ends:
            raise BackendError(f"{self._url}: the reply ended with '{choice.finish_reason}'")
        return ends[choice.finish_reason]

    def _failure(self, error: openai.OpenAIError) -> Exception:
        what = f"{self._url}: {str(error).partition(chr(10))[0][:300]}"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return ConfigError(f"{what}; set a valid key in the environment variable {self._key_env}")
        if isinstance(error, openai.NotFoundError):
            return ConfigError(f"{what}; check backend.base_url and backend.model")
        if isinstance(error, openai.APIStatusError):
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                after = error.response.headers.get("retry-after", "")
                return TransientError(what, float(after) if after.replace(".", "", 1).isdigit() else None)
            return BackendError(what)
        return TransientError(what)  # a dropped connection, a timeout, half a reply
