"""One OpenAI-compatible address: requests, what their failures mean, and what it allows.

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

from stepagent.config.loading import check_base_url
from stepagent.errors import BackendError, ConfigError, RefusedError, TransientError
from stepagent.types import FinishReason, Message


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Chat turns as the API takes them."""
    return [{"role": turn.role, "content": turn.content} for turn in messages]


class Endpoint:
    """`url` ends in /v1, `model` is the name it serves, `timeout` is in seconds. `headers` are those of the
    newest reply: rate limits stand in them."""

    def __init__(self, url: str, model: str, api_key_env: str, timeout: float) -> None:
        check_base_url("backend", url)
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
        """The reply to a JSON body sent to `path`, relative to /v1; a path that begins with / is one of the
        server's own beside /v1. Raises TransientError, BackendError or ConfigError."""
        root = self.url.removesuffix("/v1")
        where = f"{root}{path}" if path.startswith("/") else f"{self.url}/{path}"
        try:
            return await self._client.post(where, body={"model": self.model, **body}, cast_to=object)
        except openai.OpenAIError as error:
            raise self.failure(error) from None
        except JSONDecodeError:
            raise TransientError(f"{self.url}: half a reply") from None

    async def choices(self, path: str, body: Mapping[str, Any]) -> tuple[list[Any], Mapping[str, Any]]:
        """The `n` choices of a completion request, and the whole reply. Raises as `post` does."""
        reply = await self.post(path, body)
        try:
            found = list(reply["choices"])
            if len(found) != body.get("n", 1):
                raise TransientError(f"{self.url}: {len(found)} choices instead of {body.get('n', 1)}")
        except (KeyError, TypeError, AttributeError) as error:
            raise self.unreadable(error) from None
        return found, reply

    async def serves(self) -> list[str] | None:
        """The names the endpoint serves; None if it does not say."""
        try:
            return [entry.id async for entry in self._client.models.list()]
        except openai.APIStatusError as error:
            if error.status_code in (400, 403, 404, 405, 501):
                return None
            raise self.failure(error) from None
        except openai.OpenAIError as error:
            raise self.failure(error) from None

    async def prefix_cache(self) -> tuple[float, float] | None:
        """vLLM's counters: prompt tokens found in the prefix cache, and looked up; None for other servers."""
        try:
            text = await self._client.get(f"{self.url.removesuffix('/v1')}/metrics", cast_to=str)
        except openai.OpenAIError:
            return None
        hits, asked = (
            re.findall(rf"^vllm:prefix_cache_{name}_total\S* (\S+)$", text, re.MULTILINE)
            for name in ("hits", "queries")
        )
        return (sum(map(float, hits)), sum(map(float, asked))) if asked else None

    def reason(self, choice: Mapping[str, Any]) -> FinishReason:
        """Why a choice ended. Raises BackendError for a refusal: a final outcome."""
        ends: dict[str, FinishReason] = {"stop": "end", "length": "length"}
        reason = choice["finish_reason"]
        if reason not in ends:
            raise BackendError(f"{self.url}: the reply ended with '{reason}'")
        return ends[reason]

    def unreadable(self, error: Exception) -> TransientError:
        """A reply without what was asked for."""
        return TransientError(f"{self.url}: a reply that cannot be read ({error!r})")

    def failure(self, error: openai.OpenAIError) -> Exception:
        """What an error of the client library means: the table at the head of this file."""
        what = f"{self.url}: {str(error).partition(chr(10))[0][:300]}"
        if isinstance(error, openai.AuthenticationError):
            return ConfigError(f"{what}; set a valid key in the environment variable {self._key_env}")
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if status in (408, 409, 429) or status >= 500:
                after = _seconds(error.response.headers.get("retry-after", ""))
                return TransientError(what, after, rate_limited=status == 429)
            if status in (403, 404, 405):
                return RefusedError(f"{what}; check backend.base_url, backend.model and what the key may do")
            return BackendError(what)
        return TransientError(what)

    async def close(self) -> None:
        """Close the connections that are kept open between requests."""
        await self._client.close()


def _seconds(text: str) -> float | None:
    return float(text) if text.replace(".", "", 1).isdigit() else None
