"""Backends of a loopback server that are closed when a test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from stepagent.backends.endpoint import Endpoint
from stepagent.backends.openai import OpenAIBackend
from stepagent.backends.pool import Pool
from stepagent.backends.retry import Retrying


@pytest.fixture
async def endpoint() -> AsyncIterator[Callable[..., OpenAIBackend]]:
    """Opener of the backend of one URL."""
    backends: list[OpenAIBackend] = []

    def opened(url: str, model: str = "m", timeout: int = 5, tokenizer: str | None = None) -> OpenAIBackend:
        backends.append(OpenAIBackend(Endpoint(url, model, "NO_KEY", timeout=timeout), tokenizer=tokenizer))
        return backends[-1]

    yield opened
    for backend in backends:
        await backend.close()


@pytest.fixture
def retrying(endpoint: Callable[..., OpenAIBackend]) -> Callable[..., Retrying]:
    """Opener of the backend of one URL that tries again what may succeed later."""

    def opened(url: str, timeout: int = 5, attempts: int = 4, longest_wait: float = 0.05, model: str = "m") -> Retrying:
        return Retrying(Pool([endpoint(url, model, timeout)], 16), attempts, longest_wait)

    return opened
