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


T = TypeVar("T")


class Retries:
    """Makes a request again while it fails with TransientError, up to `attempts` times: after what the server
    asks for (Retry-After), else after a random, growing while of at most `longest_wait` seconds."""

    def __init__(self, attempts: int, longest_wait: float = 60) -> None:
        self._stop = stop_after_attempt(attempts)
        self._longest = longest_wait
        self._backoff = wait_random_exponential(multiplier=min(0.5, longest_wait), max=longest_wait)

    async def run(self, ask: Callable[[int], Awaitable[T]]) -> T:
        """What `ask` gives; it is told which attempt this is, from 1. The last failure is raised as it is."""
        try:
            return await ask(1)  # most succeed, and tenacity has its price
        except TransientError as error:
            failed: TransientError | None = error
        again = AsyncRetrying(
            stop=self._stop, wait=self._wait, retry=retry_if_exception_type(TransientError), reraise=True
        )
        async for attempt in again:
            with attempt:
                if failed is not None:
                    first, failed = failed, None
                    raise first
                return await ask(attempt.retry_state.attempt_number)
        raise AssertionError("tenacity gives up by raising")

    def _wait(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, TransientError) and failure.retry_after is not None:
            return min(failure.retry_after, self._longest)
        return float(self._backoff(state))


class Retrying(Wrapper):
    """`backend` with retries. `ready` is awaited before every attempt, told whether one before failed: it
    returns once the server can be asked."""

    def __init__(
        self,
        backend: Backend,
        attempts: int,
        longest_wait: float = 60,
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
