"""The OpenAI-compatible backend: a vLLM server, or any hosted chat API.

What the endpoint can do is found out at the first request (`probe.py`); a half-written reply is continued in
the best way it allows (`token_ids.py`, `chat.py`). `endpoint.py` says what its failures mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from stepagent.backends.chat import Chat
from stepagent.backends.endpoint import Endpoint
from stepagent.backends.limits import RateLimited
from stepagent.backends.pool import Pool
from stepagent.backends.probe import PROBE, probe
from stepagent.backends.retry import Ready, Retrying
from stepagent.backends.token_ids import TokenIds
from stepagent.config.settings import Positive
from stepagent.errors import ConfigError
from stepagent.interfaces import Backend
from stepagent.types import Completions, Prompt, Sampling


def openai_backend(
    base_url: str | list[str],
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
    """`model` is the name the endpoint serves; `timeout` is in seconds. With several addresses each request
    goes to the endpoint with the fewest in flight; they serve the same weights, and the limits are those of
    each. Requests that may succeed later are made up to `attempts` times, at most `max_in_flight` at once,
    and no faster than the endpoint's 429s and headers, or the limits given here, allow. `tokenizer`, the
    folder or hub id of the served model, lets `stepagent optimize` know whose token ids it is given.
    `version` tells apart weights that are served under one name; `ready` returns once the server can be
    asked."""
    urls = [base_url] if isinstance(base_url, str) else base_url
    if len(urls) > 1:
        version = version or f"{model} at several addresses"
    endpoints = [OpenAIBackend(url, model, api_key_env, timeout, tokenizer, version) for url in urls]
    limited = [RateLimited(endpoint, requests_per_minute, tokens_per_minute) for endpoint in endpoints]
    return Retrying(Pool(limited, max_in_flight), attempts, ready=ready)


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
        self._tokenizer = tokenizer
        self._way: TokenIds | Chat | None = None
        self._probing = asyncio.Lock()

    @property
    def headers(self) -> Mapping[str, str]:
        """The newest reply's headers."""
        return self._endpoint.headers

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend. Raises TransientError, BackendError or ConfigError."""
        if self._way is None:
            async with self._probing:
                self._way = self._way or await self._find_way()
        try:
            return await self._way.complete(prompt, sampling)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise self._endpoint.unreadable(error) from None

    async def close(self) -> None:
        """Close the connections that are kept open between requests."""
        await self._endpoint.close()

    async def prefix_cache(self) -> tuple[float, float] | None:
        """See Wrapper."""
        return await self._endpoint.prefix_cache()

    async def _find_way(self) -> TokenIds | Chat:
        can = await probe(self._endpoint)
        if can.way != "ids":
            return Chat(self._endpoint, can)
        way = TokenIds(self._endpoint)
        if self._tokenizer:
            way.tokenizer_sha256 = await self._same_tokenizer(way, self._tokenizer)
        return way

    async def _same_tokenizer(self, way: TokenIds, name: str) -> str:
        from stepagent.models.tokenizer import load_tokenizer, render, tokenizer_sha256

        tokenizer = await asyncio.to_thread(load_tokenizer, name)
        ours = tuple(tokenizer(render(tokenizer, PROBE), add_special_tokens=False)["input_ids"])
        if ours != (await way.render(PROBE)).ids:
            raise ConfigError(
                f"backend.tokenizer: {name} is not the tokenizer of what {self._endpoint.url} serves"
            )
        return tokenizer_sha256(tokenizer)
