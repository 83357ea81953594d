"""Rate limits: learned, configured, read from headers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from stepagent import (
    Completion,
    Completions,
    Message,
    Prompt,
    Sampling,
    Usage,
)
from stepagent.backends.limits import RateLimited, duration
from stepagent.backends.openai import OpenAIBackend
from stepagent.backends.pool import Pool
from stepagent.backends.retry import Retrying
from stepagent.testing.stub_server import Stub, serve

Open = Callable[..., OpenAIBackend]

ASK = Prompt((Message("user", "1+1"),))


async def test_a_rate_limit_is_learned_from_429s(endpoint: Open) -> None:
    stub = Stub(lambda context, seed: "2")
    stub.per_second = 20
    with serve(stub) as url:
        backend = endpoint(url)
        await backend.complete(ASK, Sampling())
        limited = Retrying(Pool([RateLimited(backend)], 64), 30, 0.05)
        async with asyncio.TaskGroup() as group:
            for seed in range(100):
                group.create_task(limited.complete(ASK, Sampling(seed=seed)))
    assert len(stub.requests) == 101
    assert stub.refused < 200, f"{stub.refused} requests too early for 100 that were served"


async def test_configured_rates_and_headers_space_the_requests(endpoint: Open) -> None:
    stub = Stub(lambda context, seed: "2")
    with serve(stub) as url:
        backend = endpoint(url)
        await backend.complete(ASK, Sampling())
        start = time.monotonic()
        limited = RateLimited(backend, requests_per_minute=600)
        for seed in range(4):
            await limited.complete(ASK, Sampling(seed=seed))
        assert time.monotonic() - start >= 0.3
        stub.headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "400ms"}
        await limited.complete(ASK, Sampling(seed=7))
        start = time.monotonic()
        await limited.complete(ASK, Sampling(seed=8))
        assert time.monotonic() - start >= 0.35


async def test_tokens_per_minute_are_kept() -> None:
    reply = Completions((Completion("x", "end"),), "", None, Usage(1, 90, 10))

    class Costly:
        async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
            return reply

    limited = RateLimited(Costly(), tokens_per_minute=60_000)  # 100 tokens take 0.1 s
    start = time.monotonic()
    for seed in range(5):
        await limited.complete(ASK, Sampling(seed=seed))
    assert 0.35 <= time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("6m0s", 360), ("120ms", 0.12), ("2.5", 2.5), ("", 0), ("soon", 0)]
)
def test_durations_of_rate_limit_headers(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)
