"""One OpenAI-compatible address: its requests, and the meaning of their failures.

429, 408, 409, 5xx, a dropped connection, a timeout, a reply that cannot be read     TransientError
401, 402, a spent quota, a wait of over ten minutes; 403, 404, 405 before the first reply     RefusedError
other refusals of one request: 400, 403, 422, a content filter's                     BackendError, final

An error in a reply of status 200 is one all the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import openai

from stepagent.backends.replies import one_line, read_reply, server_words
from stepagent.backends.waits import asked_wait
from stepagent.config.arguments import check_addresses, is_here
from stepagent.errors import BackendError, ConfigError, RefusedError, TransientError
from stepagent.types import FinishReason, Message

LONGEST_WAIT = 600.0  # seconds that a run waits for a server's limit; a longer one ends it
_ENDS = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "end", "complete", "completed", "finished", "")
_LIMITS = ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "token_limit")
_BUSY = ("insufficient_system_resource", "busy", "overloaded")
_SPENT = re.compile(r"insufficient_quota|exceeded your current quota|insufficient (?:credits|balance|funds)", re.I)
_PROXIES = ("https_proxy", "http_proxy", "all_proxy")


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return chat turns in the API's form."""
    return [{"role": turn.role, "content": turn.content} for turn in messages]


class Endpoint:
    """Client of one address: `url` ends in /v1, `model` is a name that it serves, `timeout` is in seconds.

    `headers` are those of the newest reply, where servers put their rate limits.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str,
        *,
        timeout: float,
        extra_body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        try:
            check_addresses(url)
        except ValueError as error:
            raise ConfigError(f"backend.base_url: {error}") from None
        address = urlsplit(url)
        self.url = url.rstrip("/")
        self.root = f"{address.scheme}://{address.netloc}{address.path.rstrip('/').removesuffix('/v1')}"
        self.model = model
        self.headers: Mapping[str, str] = {}
        self._query = f"?{address.query}" if address.query else ""
        self._path = f"{address.scheme}://{address.netloc}{address.path.rstrip('/')}"
        self._key_env = api_key_env
        self._timeout = timeout
        self._answered = False
        # A proxy is for other machines; asked for this one, it answers in the server's name.
        self._proxied = not is_here(address.hostname or "")
        key = (os.environ.get(api_key_env) or "none").strip()
        if not key.isascii() or not key.isprintable():
            raise ConfigError(f"the environment variable {api_key_env} holds no key: it has line breaks or odd letters")
        try:
            http_client = openai.DefaultAioHttpClient(trust_env=self._proxied)
        except (ValueError, ImportError, OSError) as error:
            raise ConfigError(
                f"{self.url}: the connection cannot be set up ({error}){self._named_variable()}"
            ) from None
        self._client = openai.AsyncOpenAI(
            base_url=self._path,
            api_key=key,
            timeout=timeout,
            max_retries=0,
            http_client=http_client,
            default_headers=dict(headers or {}),
        )
        self._extra_body = dict(extra_body or {})

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a JSON body to `path` and return the reply.

        The path is relative to the address; one that begins with / is relative to the server's root. Raises
        TransientError, BackendError or ConfigError.
        """
        reply = self.checked(await self._send("POST", path, self.complete_body(path, body)))
        self._answered = self._answered or "completions" in path
        return reply

    def complete_body(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of a request to `path` with the model's name and the fields of the config."""
        extra = self._extra_body if "completions" in path else {}
        if path == "/tokenize" and "messages" in body and (variables := self._extra_body.get("chat_template_kwargs")):
            extra = {"chat_template_kwargs": {**body.get("chat_template_kwargs", {}), **variables}}
        return {"model": self.model, **body, **extra}

    def checked(self, reply: Any) -> Any:
        """Return a reply, or raise the error that it holds."""
        if isinstance(reply, dict) and reply.get("error") and not reply.get("choices"):
            error = reply["error"]
            code = str(error.get("code")) if isinstance(error, dict) else ""
            status = int(code) if code.isdigit() and 400 <= int(code) < 600 else 502
            raise self.refusal(status, self.headers, json.dumps({"error": error}).encode())
        return reply

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        url = f"{self.root}{path}" if path.startswith("/") else f"{self._path}/{path}{self._query}"
        try:
            # The client's own timeout is one between two bytes, and ends with the first one of a status below 200.
            async with asyncio.timeout(self._timeout):
                if method == "POST":
                    response = await self._client.post(url, body=body, cast_to=openai.HttpxBinaryResponseContent)
                else:
                    response = await self._client.get(url, cast_to=openai.HttpxBinaryResponseContent)
        except openai.APIStatusError as error:
            raise self.refusal(error.status_code, error.response.headers, error.response.content) from None
        except Exception as error:  # noqa: BLE001 (the clients below openai's raise their own, and servers provoke any)
            raise self.lost(error) from None
        self.headers = response.response.headers
        if method == "GET":
            return response.content
        try:
            return read_reply(response.content)
        except ValueError as error:
            words = server_words(response.content)[:100]
            if not self._answered and response.content.lstrip()[:1] == b"<" and "completions" in path:
                raise RefusedError(f"{self.url}: a web page (HTML), no API: {words}; check backend.base_url") from None
            raise TransientError(
                f"{self.url}: a reply that cannot be read ({error}): {words}", status=response.response.status_code
            ) from None

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
        """Return the names that the endpoint serves; None if it does not say: the list is a hint."""
        try:
            reply = read_reply(await self._send("GET", "models"))
            entries = reply.get("data") if isinstance(reply, dict) else reply
            names = [entry.get("id") or entry.get("name") for entry in list(entries or ())]
        except (BackendError, ConfigError, ValueError, TypeError, AttributeError):
            return None
        return [name for name in names if isinstance(name, str)] or None

    async def prefix_cache(self) -> tuple[float, float] | None:
        """Return vLLM's counts of prompt tokens found in its prefix cache and looked up; None elsewhere."""
        try:
            text = (await self._send("GET", "/metrics")).decode("utf-8", "replace")
            hits, queries = (
                [
                    float(number)
                    for number in re.findall(rf"^vllm:prefix_cache_{name}_total\S* (\S+)$", text, re.MULTILINE)
                ]
                for name in ("hits", "queries")
            )
        except (BackendError, ConfigError, ValueError):
            return None
        return (sum(hits), sum(queries)) if queries else None

    def reason(self, choice: Mapping[str, Any]) -> FinishReason:
        """Return why a choice ended. Raises BackendError for any other reason, such as a content filter."""
        reason = choice.get("finish_reason")
        word = str("" if reason is None else reason).lower().removeprefix("finish_reason_")
        if word in _ENDS:
            return "end"
        if word in _LIMITS:
            return "length"
        message = f"{self.url}: the reply ended with '{one_line(str(reason))}'"
        raise TransientError(message) if word in _BUSY else BackendError(message)

    def unreadable(self, error: Exception) -> TransientError:
        """Return the error for a reply that lacks a requested part."""
        return TransientError(f"{self.url}: a reply that cannot be read ({error!r})", status=200)

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """Return the error that stands for a refusal; the head of this file has the table."""
        text = body.decode("utf-8", "replace")
        message = f"{self.url}: {server_words(body) or 'no words'} (status {status})"
        if status == 401:
            return ConfigError(f"{message}; set a valid key in the environment variable {self._key_env}")
        if status == 402 or (status in (403, 429) and _SPENT.search(text)):
            return RefusedError(f"{message}; add credits or raise the limit, then the same command goes on")
        if status in (408, 409, 425, 429) or status >= 500:
            wait = asked_wait(headers, text)
            if wait is not None and wait > LONGEST_WAIT:
                return RefusedError(
                    f"{message}; it asks to wait {wait / 60:.0f} minutes: the same command goes on then"
                )
            return TransientError(message, wait, rate_limited=status in (429, 529), status=status)
        if status in (404, 405) or (status == 403 and not self._answered):
            hint = "" if self._path.count("/") > 2 else " (most addresses end in /v1)"
            return RefusedError(f"{message}; check backend.base_url{hint}, backend.model and what the key may do")
        return BackendError(message)

    def lost(self, error: Exception) -> TransientError:
        """Return the error for a request without a reply, in the words of the first cause."""
        cause: BaseException = error
        while (deeper := cause.__cause__ or cause.__context__) is not None:
            if isinstance(deeper, asyncio.CancelledError):  # that is how the timeout ends a request
                break
            cause = deeper
        words = one_line(str(cause))
        if (
            isinstance(cause, OSError) and (cause.errno or 0) > 0
        ):  # asyncio says of a refused port "Connect call failed"
            words = f"{os.strerror(cause.errno or 0)} ({words})"
        name = "" if words and not isinstance(cause, TimeoutError | ValueError) else f"{type(cause).__name__}: "
        if isinstance(cause, TimeoutError):
            name, words = "", f"no reply within the timeout ({words or type(error).__name__})"
        return TransientError(f"{self.url}: {name}{words}{self._named_variable()}")

    def _named_variable(self) -> str:
        """Return the words that name the variable with a proxy or certificates that this address goes through."""
        names = [name for name in _PROXIES if os.environ.get(name) or os.environ.get(name.upper())]
        names += [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        if not self._proxied or not names:
            return ""
        variable = names[0] if os.environ.get(names[0]) else names[0].upper()
        return f" (through {variable}={os.environ[variable]})"

    async def close(self) -> None:
        """Close the connections that are kept open between requests."""
        await self._client.close()
