"""Limits of requests and tokens per minute: those configured, and those learnt from 429s and headers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping

from stepagent.backends.endpoint import LONGEST_WAIT
from stepagent.backends.waits import reset_wait
from stepagent.backends.wrapper import Wrapper
from stepagent.errors import RefusedError, TransientError
from stepagent.interfaces import Backend, Headed
from stepagent.types import Completions, Prompt, Sampling

_log = logging.getLogger("stepagent")
_MINUTE = 60.0  # seconds
_WIDER = 1.2  # factor on the gap between requests after a burst of 429s
_RECOVERY = 0.02  # share of the gap that closes in a second
_LONGEST_HOLD = 8.0  # seconds between trials of a server that says nothing of its limit
_LEAST_GAP = 0.001  # seconds between requests below which a learned limit is forgotten
_SAID = 5.0  # seconds of waiting that are worth a line


class RateLimited(Wrapper):
    """Wrapper that spaces the requests to `backend` evenly in time.

    A 429 holds all requests for the time the server asks for, else for a second, twice as long after each further one,
    at most eight; and it sets the gap between them to what the best minute so far has shown to work, or widens it by a
    fifth. The gap closes by 2 % a second, down to the configured one. A header that says that no request or token is
    left holds them until the time of its reset. Raises RefusedError for holds of over ten minutes without a success.
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
        self._successes: deque[float] = deque()  # moments within the last minute
        self._best_minute = 0.0  # successes
        self._refusals = 0  # bursts of 429s since the last success
        self._refused_since = 0.0  # the moment of the first of them
        self._recovered = 0.0

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
        self._faster()
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
            # Of all that wait, one is refused after each hold: the holds add up, whoever is refused.
            begin = self._refused_since if self._refusals else time_now
            if self._hold_end - min(begin, time_now) > LONGEST_WAIT:
                minutes = (self._hold_end - min(begin, time_now)) / 60
                raise RefusedError(
                    f"{self._name()}: its daily limit or the like is used up for {minutes:.0f} minutes; the same "
                    "command goes on then"
                )
            if moment > time_now:
                await asyncio.sleep(moment - time_now)
            # A 429 during the sleep holds sleepers too; each reserves anew, or all would go out at once.
            if self._hold_end <= moment:
                return

    def _faster(self) -> None:
        """Take note of a success: close the gap by the time since the last one."""
        time_now = time.monotonic()
        self._refusals = 0
        self._successes.append(time_now)
        while self._successes[0] < time_now - _MINUTE:
            self._successes.popleft()
        self._best_minute = max(self._best_minute, len(self._successes))
        passed = min(time_now - self._recovered, 5.0) if self._recovered else 0.0
        self._recovered = time_now
        self._gap = max(self._configured_gap, self._gap * (1 - _RECOVERY) ** passed)
        if self._gap < _LEAST_GAP:
            self._gap = self._configured_gap

    def _slower(self, start: float, retry_after: float | None) -> None:
        """Hold all requests and widen the gap, after a 429 for a request sent at `start`."""
        time_now = time.monotonic()
        hold = min(2.0**self._refusals, _LONGEST_HOLD) if retry_after is None else retry_after
        if hold > _SAID and self._hold_end < time_now:
            _log.warning("%s asks for fewer requests: waiting %.0f s", self._name(), hold)
        self._hold_end = max(self._hold_end, time_now + hold)
        # A request sent before the last slowdown belongs to the same burst: one burst widens the gap once.
        if start < self._slowdown:
            return
        self._slowdown = time_now
        if not self._refusals:
            self._refused_since = time_now
        self._refusals += 1
        passed = time_now - (self._first_request or time_now)
        # The rate that worked: of the best minute, or of the time so far if that is shorter.
        worked = min(passed, _MINUTE) / max(self._best_minute, 1)
        # Further refusals while nothing gets through say nothing new about the rate.
        if self._refusals == 1:
            self._gap = max(
                self._configured_gap, min(self._gap * _WIDER, worked) if self._gap > worked else worked, _LEAST_GAP
            )

    def _heed(self, headers: Mapping[str, str]) -> None:
        """Hold all requests until the reset of a limit that the headers call used up."""
        if (wait := reset_wait(headers)) is not None:
            self._hold_end = max(self._hold_end, time.monotonic() + wait)

    def _name(self) -> str:
        return getattr(self.wrapped, "version", None) or "the endpoint"
