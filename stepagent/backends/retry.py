"""The one retry layer, around any backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from stepagent.backends.wrapper import Wrapper
from stepagent.errors import TransientError
from stepagent.interfaces import Backend
from stepagent.types import Completions, Prompt, Sampling

Ready = Callable[[bool], Awaitable[None]]
"""(whether an attempt has failed) -> returns once the server can be asked."""

T = TypeVar("T")
_OK = 200
_LEAST_ATTEMPTS = 6
_PATIENCE, _LIMITED_PATIENCE = 120.0, 600.0  # seconds


class Retries:
    """Repetition of a request that fails with TransientError: up to `attempts` attempts in all, or, if that is None,
    for two minutes, which bridges a restart, and for ten minutes where the server asks for fewer requests.

    The wait before the next attempt is the one the server asks for (Retry-After), else a random one that
    grows exponentially; at most `longest_wait` seconds in both cases.
    """

    def __init__(self, attempts: int | None, longest_wait: float = 60) -> None:
        self._stop = stop_after_attempt(attempts) if attempts else _patience_is_over
        self._longest = longest_wait
        self._backoff = wait_random_exponential(multiplier=min(0.5, longest_wait), max=min(10.0, longest_wait))

    async def run(self, ask: Callable[[int], Awaitable[T]]) -> T:
        """Return the result of `ask`, called with the attempt's number, from 1. Raises the last failure."""
        try:
            return await ask(1)  # most requests succeed, so they skip the cost of tenacity
        except TransientError as error:
            failure: TransientError | None = error
        retrying = AsyncRetrying(
            stop=self._stop, wait=self._wait, retry=retry_if_exception_type(TransientError), reraise=True
        )
        async for attempt in retrying:
            with attempt:
                if failure is not None:  # tenacity counts the first attempt and waits after it
                    first_failure, failure = failure, None
                    raise first_failure
                return await ask(attempt.retry_state.attempt_number)
        raise AssertionError("tenacity gives up by raising")

    def _wait(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, TransientError) and failure.retry_after is not None:
            return min(failure.retry_after, self._longest)
        return float(self._backoff(state))


def _patience_is_over(state: RetryCallState) -> bool:
    failure = state.outcome.exception() if state.outcome else None
    limited = isinstance(failure, TransientError) and failure.rate_limited
    if isinstance(failure, TransientError) and failure.status == _OK:
        return state.attempt_number >= _LEAST_ATTEMPTS  # it answers, and time will not make its replies other ones
    passed = state.seconds_since_start or 0.0
    return state.attempt_number >= _LEAST_ATTEMPTS and passed >= (_LIMITED_PATIENCE if limited else _PATIENCE)


class Retrying(Wrapper):
    """Wrapper that retries. `ready` is awaited before every attempt, with True after a failed one; it returns
    once the server can be asked."""

    def __init__(
        self,
        backend: Backend,
        attempts: int | None,
        longest_wait: float = 60,
        *,
        ready: Ready | None = None,
    ) -> None:
        super().__init__(backend)
        self._retries = Retries(attempts, longest_wait)
        self._ready = ready

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""

        async def ask(attempt: int) -> Completions:
            if self._ready:
                await self._ready(attempt > 1)
            return await self.wrapped.complete(prompt, sampling)

        return await self._retries.run(ask)
