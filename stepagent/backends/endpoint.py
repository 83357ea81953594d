"""One OpenAI-compatible address: its requests, and the meaning of their failures.

429, 408, 409, 5xx, a dropped connection, a timeout, a reply that cannot be read     TransientError
401, 403, 404: no request can succeed before the config or the key is mended       ConfigError
400 and 422, a content filter's refusal                                            BackendError, final
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from json import JSONDecodeError
from typing import Any

import openai

from stepagent.config.arguments import check_addresses
from stepagent.errors import BackendError, ConfigError, RefusedError, TransientError
from stepagent.types import FinishReason, Message


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return chat turns in the API's form."""
    return [{"role": turn.role, "content": turn.content} for turn in messages]


class Endpoint:
    """Client of one address: `url` ends in /v1, `model` is a name that it serves, `timeout` is in seconds.

    `headers` are those of the newest reply, where servers put their rate limits.
    """

    def __init__(self, url: str, model: str, api_key_env: str, *, timeout: float) -> None:
        try:
            check_addresses(url)
        except ValueError as error:
            raise ConfigError(f"backend.base_url: {error}") from None
        self.url = url.rstrip("/")
        self.model = model
        self.headers: Mapping[str, str] = {}
        self._key_env = api_key_env

        async def keep_headers(response: Any) -> None:
            self.headers = response.headers

        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=os.environ.get(api_key_env) or "none",
            timeout=timeout,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(event_hooks={"response": [keep_headers]}),
        )

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a JSON body to `path` and return the reply.

        The path is relative to /v1; one that begins with / is relative to the server's root. Raises
        TransientError, BackendError or ConfigError.
        """
        root = self.url.removesuffix("/v1")
        url = f"{root}{path}" if path.startswith("/") else f"{self.url}/{path}"
        try:
            return await self._client.post(url, body={"model": self.model, **body}, cast_to=object)
        except openai.OpenAIError as error:
            raise self.failure(error) from None
        except JSONDecodeError:
            raise TransientError(f"{self.url}: half a reply") from None

    async def choices(self, path: str, body: Mapping[str, Any]) -> tuple[list[Any], Mapping[str, Any]]:
        """Return the `n` choices of a completion request, and the whole reply. Raises as `post` does."""
        reply = await self.post(path, body)
        try:
            choices = list(reply["choices"])
            if len(choices) != body.get("n", 1):
                raise TransientError(f"{self.url}: {len(choices)} choices instead of {body.get('n', 1)}")
        except (KeyError, TypeError, AttributeError) as error:
            raise self.unreadable(error) from None
        return choices, reply

    async def serves(self) -> list[str] | None:
        """Return the names that the endpoint serves; None if it does not say."""
        try:
            return [entry.id async for entry in self._client.models.list()]
        except openai.APIStatusError as error:
            if error.status_code in (400, 403, 404, 405, 501):
                return None
            raise self.failure(error) from None
        except openai.OpenAIError as error:
            raise self.failure(error) from None

    async def prefix_cache(self) -> tuple[float, float] | None:
        """Return vLLM's counts of prompt tokens found in its prefix cache and looked up; None elsewhere."""
        try:
            text = await self._client.get(f"{self.url.removesuffix('/v1')}/metrics", cast_to=str)
        except openai.OpenAIError:
            return None
        hits, queries = (
            re.findall(rf"^vllm:prefix_cache_{name}_total\S* (\S+)$", text, re.MULTILINE)
            for name in ("hits", "queries")
        )
        return (sum(map(float, hits)), sum(map(float, queries))) if queries else None

    def reason(self, choice: Mapping[str, Any]) -> FinishReason:
        """Return why a choice ended. Raises BackendError for any other reason, such as a content filter."""
        ends: dict[str, FinishReason] = {"stop": "end", "length": "length"}
        reason = choice["finish_reason"]
        if reason not in ends:
            raise BackendError(f"{self.url}: the reply ended with '{reason}'")
        return ends[reason]

    def unreadable(self, error: Exception) -> TransientError:
        """Return the error for a reply that lacks a requested part."""
        return TransientError(f"{self.url}: a reply that cannot be read ({error!r})")

    def failure(self, error: openai.OpenAIError) -> Exception:
        """Return the error that stands for one of the client library; the head of this file has the table."""
        message = f"{self.url}: {str(error).partition(chr(10))[0][:300]}"
        if isinstance(error, openai.AuthenticationError):
            return ConfigError(f"{message}; set a valid key in the environment variable {self._key_env}")
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if status in (408, 409, 429) or status >= 500:
                wait = _seconds(error.response.headers.get("retry-after", ""))
                return TransientError(message, wait, rate_limited=status == 429)
            if status in (403, 404, 405):
                return RefusedError(f"{message}; check backend.base_url, backend.model and what the key may do")
            return BackendError(message)
        return TransientError(message)

    async def close(self) -> None:
        """Close the connections that are kept open between requests."""
        await self._client.close()


def _seconds(text: str) -> float | None:
    return float(text) if text.replace(".", "", 1).isdigit() else None
