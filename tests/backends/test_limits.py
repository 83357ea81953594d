"""Rate limits: learned, configured, read from headers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate

import pytest

from stepagent import (
    Completion,
    Completions,
    Message,
    Prompt,
    Sampling,
    Usage,
)
from stepagent.backends.limits import RateLimited
from stepagent.backends.openai import OpenAIBackend
from stepagent.backends.pool import Pool
from stepagent.backends.retry import Retrying
from stepagent.backends.waits import asked_wait, seconds
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
    ("text", "wait"),
    [("1s", 1), ("6m0s", 360), ("120ms", 0.12), ("2.5", 2.5), ("1d", 86400), ("", None), ("soon", None)],
)
def test_durations_of_rate_limit_headers(text: str, wait: float | None) -> None:
    assert seconds(text) == pytest.approx(wait) if wait else seconds(text) is None


def test_times_of_day_are_waits_from_now() -> None:
    moment = time.time() + 30
    texts = [f"{moment:.1f}", f"{moment * 1000:.0f}", formatdate(moment, usegmt=True)]
    texts.append(datetime.fromtimestamp(moment, UTC).isoformat())
    for text in texts:
        assert seconds(text) == pytest.approx(30, abs=2), text
    assert seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize(
    ("headers", "body", "wait"),
    [
        ({"Retry-After": "7"}, "", 7),
        ({"retry-after-ms": "1500", "retry-after": "7"}, "", 1.5),
        ({}, "Rate limit reached. Please try again in 2.5s.", 2.5),
        ({}, "Try again in 900ms", 0.9),
        ({}, "Please retry after 12 seconds", 12),
        ({}, '{"retryDelay": "3s"}', 3),
        ({"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "4s"}, "", 4),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "4s"}, "", None),
        ({}, "slow down", None),
    ],
)
def test_what_a_refusal_asks_to_wait(headers: dict[str, str], body: str, wait: float | None) -> None:
    assert asked_wait(headers, body) == (pytest.approx(wait) if wait else None)
