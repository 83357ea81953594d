"""The OpenAI-compatible backend: a vLLM server, or any hosted chat API.

The first request is preceded by a probe of the endpoint's abilities (`probe.py`); a half-written reply is
continued in the best way they allow (`token_ids.py`, `chat.py`). `endpoint.py` tells failures apart.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from stepagent.backends.batch import MOST_REQUESTS, BatchEndpoint
from stepagent.backends.chat import Chat
from stepagent.backends.endpoint import Endpoint
from stepagent.backends.limits import RateLimited
from stepagent.backends.pool import Pool
from stepagent.backends.probe import PROBE, Answers, probe
from stepagent.backends.retry import Ready, Retrying
from stepagent.backends.token_ids import TokenIds
from stepagent.config.arguments import Attempts, BaseUrls, KeyVariable, RatePerMinute, Requests, Seconds
from stepagent.errors import ConfigError
from stepagent.interfaces import Backend
from stepagent.types import Completions, Prompt, Sampling


def openai_backend(
    base_url: BaseUrls,
    model: str,
    api_key_env: KeyVariable = "OPENAI_API_KEY",
    *,
    timeout: Seconds = 600,
    attempts: Attempts = None,
    max_in_flight: Requests = 64,
    requests_per_minute: RatePerMinute = None,
    tokens_per_minute: RatePerMinute = None,
    tokenizer: str | None = None,
    version: str | None = None,
    extra_body: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    batch: bool = False,
    ready: Ready | Sequence[Ready] | None = None,
) -> Backend:
    """Return a backend for an OpenAI-compatible endpoint, with retries and rate limits.

    `base_url` is one address or several that serve the same weights; each request then goes to the address
    with the fewest in flight, and all limits hold for each address. `model` is the name the endpoint serves.
    `timeout` is in seconds. A request that may succeed later is made again for two minutes, or up to
    `attempts` times if that is set; at most
    `max_in_flight` requests run at once, and no faster than the endpoint's 429s and headers and the limits
    per minute allow. `tokenizer` is the folder or hub id of the served model: its hash in the output tells
    `stepagent optimize` which tokenizer the token ids belong to. `version` tells apart weights that are
    served under one name. `extra_body` and `headers` are sent with every request, such as
    `{chat_template_kwargs: {enable_thinking: false}}` or `{reasoning_effort: low}`. `batch` sends all that is asked
    within a second through the endpoint's batches: half the price, within a day. `ready` returns once the server can
    be asked; of several addresses each has its own, for when it failed before.
    """
    urls = [base_url] if isinstance(base_url, str) else base_url
    if len(urls) > 1:
        version = version or f"{model} at several addresses"
    if extra_body or headers:  # they change the replies, and so the store's key
        further = sha256(json.dumps([extra_body, headers], sort_keys=True).encode()).hexdigest()[:12]  # may hold a key
        version = f"{version or f'{model} at {urls[0]}'} with {further}"
    connection: dict[str, Any] = {"timeout": timeout, "extra_body": extra_body, "headers": headers}
    backends = [
        OpenAIBackend(
            Endpoint(url, model, api_key_env, **connection),
            BatchEndpoint(url, model, api_key_env, **connection) if batch else None,
            tokenizer=tokenizer,
            version=version,
        )
        for url in urls
    ]
    limited = [RateLimited(backend, requests_per_minute, tokens_per_minute) for backend in backends]
    revivals, gate = (ready, None) if isinstance(ready, Sequence) else ((), ready)
    return Retrying(Pool(limited, MOST_REQUESTS if batch else max_in_flight, ready=revivals), attempts, ready=gate)


class OpenAIBackend:
    """Backend that makes one request per call, without retries. See `openai_backend` for the parameters. The endpoint's
    abilities are found by requests to `endpoint`; completions come through `batches`, if there is such."""

    def __init__(
        self,
        endpoint: Endpoint,
        batches: BatchEndpoint | None = None,
        *,
        tokenizer: str | None = None,
        version: str | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._source = batches or endpoint
        self.model = endpoint.model
        self.version = version or f"{endpoint.model} at {endpoint.url}"
        self._tokenizer = tokenizer
        self._way: TokenIds | Chat | None = None
        self._probe_lock = asyncio.Lock()
        self._answers: Answers = {}

    @property
    def headers(self) -> Mapping[str, str]:
        """The newest reply's headers."""
        return self._source.headers

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend. Raises TransientError, BackendError or ConfigError."""
        try:
            if self._way is None:
                async with self._probe_lock:
                    self._way = self._way or await self._find_way()
            return await self._way.complete(prompt, sampling)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise self._endpoint.unreadable(error) from None

    async def close(self) -> None:
        """Close the connections that are kept open between requests."""
        await self._endpoint.close()
        if self._source is not self._endpoint:
            await self._source.close()

    async def prefix_cache(self) -> tuple[float, float] | None:
        """See Wrapper."""
        return await self._endpoint.prefix_cache()

    async def _find_way(self) -> TokenIds | Chat:
        abilities = await probe(self._endpoint, self._answers)
        if abilities.way != "ids":
            return Chat(self._source, abilities)
        way = TokenIds(self._source)
        if self._tokenizer:
            way.tokenizer_sha256 = await self._same_tokenizer(way, self._tokenizer)
        return way

    async def _same_tokenizer(self, way: TokenIds, name: str) -> str:
        """Return the hash of the tokenizer `name`. Raises ConfigError if its ids are not the server's."""
        from stepagent.models.tokenizer import ChatTokenizer

        tokenizer = await asyncio.to_thread(ChatTokenizer, name)
        rendered = await way.render(PROBE)
        if tokenizer.ids(rendered.text) != rendered.ids:
            raise ConfigError(f"backend.tokenizer: {name} is not the tokenizer of what {self._endpoint.url} serves")
        return tokenizer.sha256
