"""Limits of requests and tokens per minute: those configured, and those learnt from 429s and headers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping

from stepagent.backends.wrapper import Wrapper
from stepagent.errors import TransientError
from stepagent.interfaces import Backend, Headed
from stepagent.types import Completions, Prompt, Sampling

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SLOWER, _FASTER = 2.0, 0.98
_LEAST_GAP = 0.001  # seconds between requests below which a learned limit is forgotten


class RateLimited(Wrapper):
    """Wrapper that spaces the requests to `backend` evenly in time.

    A 429 holds all requests for the time the server asks for (Retry-After), else for a second, and doubles
    the gap between them; every success closes the gap by 2 %, down to the configured one. A header that says
    that no request or token is left holds them until the time of its reset.
    """

    def __init__(
        self, backend: Backend, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        super().__init__(backend)
        # Gaps are in seconds; moments and starts are in seconds of the monotonic clock.
        self._configured_gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._gap = self._configured_gap
        self._gap_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = self._next_tokens = self._hold_end = self._slowdown = 0.0
        self._first_request: float | None = None
        self._requests = self._mean_tokens = 0.0

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        expected = self._mean_tokens
        await self._reserve(expected)
        start = time.monotonic()
        try:
            reply = await self.wrapped.complete(prompt, sampling)
        except TransientError as error:
            if error.rate_limited:
                self._slower(start, error.retry_after)
            raise
        tokens = reply.usage.prompt_tokens + reply.usage.completion_tokens
        self._mean_tokens += (tokens - self._mean_tokens) / min(self._requests, 100)
        self._next_tokens += (tokens - expected) * self._gap_per_token
        self._gap = max(self._configured_gap, self._gap * _FASTER)
        if self._gap < _LEAST_GAP:
            self._gap = self._configured_gap
        if isinstance(self.wrapped, Headed):
            self._heed(self.wrapped.headers)
        return reply

    async def _reserve(self, tokens: float) -> None:
        """Reserve the next free moment for a request of about `tokens` tokens, and sleep until it."""
        self._requests += 1
        while True:
            time_now = time.monotonic()
            self._first_request = self._first_request or time_now
            moment = max(self._next_request, self._next_tokens, self._hold_end, time_now)
            # Reserved before sleeping: the requests that arrive meanwhile take the moments after this one.
            self._next_request = moment + self._gap
            self._next_tokens = moment + tokens * self._gap_per_token
            if moment > time_now:
                await asyncio.sleep(moment - time_now)
            # A 429 during the sleep holds sleepers too; each reserves anew, or all would go out at once.
            if self._hold_end <= moment:
                return

    def _slower(self, start: float, retry_after: float | None) -> None:
        """Hold all requests and widen the gap, after a 429 for a request sent at `start`."""
        time_now = time.monotonic()
        self._hold_end = max(self._hold_end, time_now + (1.0 if retry_after is None else retry_after))
        # A request sent before the last slowdown belongs to the same burst: one burst doubles the gap once.
        if start < self._slowdown:
            return
        # Doubling a gap of 0 changes nothing; the mean gap so far is known to be too short.
        mean_gap = (time_now - (self._first_request or time_now)) / max(self._requests, 1)
        self._gap = max(self._gap * _SLOWER, mean_gap, _LEAST_GAP)
        self._slowdown = time_now

    def _heed(self, headers: Mapping[str, str]) -> None:
        """Hold all requests until the reset of a limit that the headers call used up."""
        for kind in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
                reset = duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
                self._hold_end = max(self._hold_end, time.monotonic() + reset)


def duration(text: str) -> float:
    """Return the seconds in "1s", "6m0s", "120ms" or "2.5"; 0 for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", text):
        return 0.0
    return sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text))
