"""Requests and tokens per minute: as configured, and as the endpoint's 429s and headers teach."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping

from stepagent.backends.wrapper import Wrapper
from stepagent.errors import TransientError
from stepagent.interfaces import Backend
from stepagent.types import Completions, Prompt, Sampling

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SLOWER, _FASTER = 2.0, 0.98
_LEAST_GAP = 0.001  # seconds between requests below which a learned limit is forgotten


class RateLimited(Wrapper):
    """Spaces the requests to `backend` evenly in time.

    A 429 holds all requests for what the server asks (Retry-After), a second otherwise, and doubles the gap
    between them; every success closes the gap by 2 %, down to what is configured. A header that says
    that no request or token is left holds them until it says they are back.
    """

    def __init__(
        self, backend: Backend, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        super().__init__(backend)
        self._least = 60 / requests_per_minute if requests_per_minute else 0.0
        self._gap = self._least
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = self._tokens_next = self._held = self._slowed = 0.0
        self._started: float | None = None
        self._requests = self._mean_tokens = 0.0

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        expected = self._mean_tokens
        await self._turn(expected)
        start = time.monotonic()
        try:
            reply = await self.wrapped.complete(prompt, sampling)
        except TransientError as error:
            if error.rate_limited:
                self._slower(start, error.retry_after)
            raise
        tokens = reply.usage.prompt_tokens + reply.usage.completion_tokens
        self._mean_tokens += (tokens - self._mean_tokens) / min(self._requests, 100)
        self._tokens_next += (tokens - expected) * self._per_token
        self._gap = max(self._least, self._gap * _FASTER)
        if self._gap < _LEAST_GAP:
            self._gap = self._least
        self._heed(getattr(self.wrapped, "headers", {}))
        return reply

    async def _turn(self, tokens: float) -> None:
        """Reserve a moment and wait for it; who is held in the meantime reserves anew."""
        self._requests += 1
        while True:
            now = time.monotonic()
            self._started = self._started or now
            moment = max(self._next, self._tokens_next, self._held, now)
            self._next = moment + self._gap
            self._tokens_next = moment + tokens * self._per_token
            if moment > now:
                await asyncio.sleep(moment - now)
            if self._held <= moment:
                return

    def _slower(self, start: float, retry_after: float | None) -> None:
        now = time.monotonic()
        self._held = max(self._held, now + (1.0 if retry_after is None else retry_after))
        if start < self._slowed:
            return  # sent before the gap was last widened: the same burst
        observed = (now - (self._started or now)) / max(self._requests, 1)
        self._gap = max(self._gap * _SLOWER, observed, _LEAST_GAP)
        self._slowed = now

    def _heed(self, headers: Mapping[str, str]) -> None:
        for kind in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
                reset = duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
                self._held = max(self._held, time.monotonic() + reset)


def duration(text: str) -> float:
    """Seconds in "1s", "6m0s", "120ms" or "2.5"; 0 for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", text):
        return 0.0
    return sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text))
