"""The OpenAI-compatible backend against a loopback server that misbehaves on order."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes import collect
from stub_server import Stub, drop, empty_choices, half_json, serve, stall, status, wrong_n

from stepagent import (
    BackendError,
    Completion,
    Completions,
    ConfigError,
    Message,
    Problem,
    Prompt,
    Sampling,
    Usage,
)
from stepagent.backends.limits import RateLimited, duration
from stepagent.backends.openai import OpenAIBackend
from stepagent.backends.pool import Pool
from stepagent.backends.retry import Retrying
from stepagent.backends.store import ResponseStore, Stored
from stepagent.errors import TransientError
from stepagent.generators.sample import SampleGenerator
from stepagent.judges.random import RandomJudge
from stepagent.search.runner import search_all
from stepagent.search.step import StepSearch

ASK = Prompt((Message("user", "1+1"),))


def say(context: str, seed: int) -> str:
    """Lines of sums; after three, the end."""
    lines = context.rpartition("<assistant>")[2].count("\n")
    number = random.Random(f"{context}{seed}").randrange(4)
    return f"={number}" if lines == 3 else f"{lines}+{number}\nmore\n"


OPEN: list[OpenAIBackend] = []


def backend(
    url: str, timeout: int = 5, attempts: int = 4, longest_wait: float = 0.05, model: str = "m"
) -> Retrying:
    OPEN.append(OpenAIBackend(url, model, "NO_KEY", timeout))
    return Retrying(Pool([OPEN[-1]], 16), attempts, longest_wait)


async def close_all() -> None:
    while OPEN:
        await OPEN.pop().close()


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    yield
    await close_all()


async def test_a_step_continues_the_sampled_tokens_exactly() -> None:
    stub = Stub(say)
    with serve(stub) as url:
        prefix = "0+1\n"
        prompt = Prompt(ASK.messages, prefix, tuple(prefix.encode()))
        reply = await backend(url).complete(prompt, Sampling(n=3, stop=("\n",), seed=7, max_tokens=50))
        ended = await backend(url).complete(
            Prompt(ASK.messages, "\n\n\n", tuple(b"\n\n\n")), Sampling(stop=("\n",))
        )
        cut = await backend(url).complete(ASK, Sampling(max_tokens=2))
    assert reply.prompt_ids == tuple(b"<user>1+1<assistant>0+1\n")
    assert reply.prompt_text == "<user>1+1<assistant>0+1\n"
    assert [choice.finish_reason for choice in reply.choices] == ["stop"] * 3
    for choice in reply.choices:
        assert choice.text.endswith("\n")
        assert bytes(choice.token_ids or ()).decode() == choice.text
        assert len(choice.logprobs or ()) == len(choice.token_ids or ())
    assert stub.served[0]["prompt"] == list(b"<user>1+1<assistant>0+1\n")
    assert ended.choices[0].finish_reason == "end"
    assert ended.choices[0].token_ids is not None
    assert ended.choices[0].token_ids[-1] == 256
    assert cut.choices[0].finish_reason == "length"


async def test_a_chat_endpoint_judges_without_the_reasoning_before_the_reply() -> None:
    with serve(Stub(lambda *_: "<think>A or B?</think>\n\nwell, [[A]]", tokenises=False)) as url:
        reply = await backend(url).complete(ASK, Sampling(max_tokens=50))
    assert reply.choices[0].text == "well, [[A]]", "neither the separate reasoning nor the tagged one"
    assert reply.prompt_ids is None
    assert reply.usage.requests == 1


async def test_a_server_that_continues_turns_is_given_the_half_written_one() -> None:
    stub = Stub(lambda context, _: " 2\nStep 2: x" if context.endswith("Step 1:") else "?", False, True)
    with serve(stub) as url:
        prompt = Prompt(ASK.messages, "so\nStep 1:", None)
        reply = await backend(url).complete(prompt, Sampling(n=2, stop=("\nStep 2:",), max_tokens=50))
        ended = await backend(url).complete(prompt, Sampling(stop=("\nStep 3:",), max_tokens=50))
    assert [choice.text for choice in reply.choices] == [" 2\nStep 2:"] * 2
    assert [choice.finish_reason for choice in reply.choices] == ["stop"] * 2
    assert ended.choices[0].finish_reason == "end"
    assert stub.served[0]["messages"][-1] == {"role": "assistant", "content": "so\nStep 1:"}


@pytest.mark.parametrize(
    ("said", "text", "reason"),
    [
        ("1+1=2", " 1+1=2\nStep 3:", "stop"),
        ("Step 2: 1+1=2\n", " 1+1=2\nStep 3:", "stop"),
        ("Step 2: 1+1=2\nStep 3: so", " 1+1=2\nStep 3:", "stop"),
        ("Step 2: it is 2 [[END]]", " it is 2", "end"),
    ],
)
async def test_a_hosted_api_is_shown_the_prefix_and_asked_for_the_next_step(
    said: str, text: str, reason: str
) -> None:
    stub = Stub(lambda *_: said, tokenises=False)
    with serve(stub) as url:
        prompt = Prompt(ASK.messages, "Step 1: hm\nStep 2:", None)
        reply = await backend(url).complete(prompt, Sampling(stop=("\nStep 3:",), max_tokens=50))
    assert [(c.text, c.finish_reason, c.token_ids) for c in reply.choices] == [(text, reason, None)]
    assert reply.prompt_text.endswith("Step 1: hm\nStep 2:")
    shown = stub.served[0]["messages"]
    assert len(shown) == 1
    assert "1+1" in shown[0]["content"]
    assert "Step 1: hm\nStep 2:" in shown[0]["content"]
    assert "stop" not in stub.served[0], "it could not tell a step's end from the solution's"


async def test_parameters_that_an_endpoint_refuses_are_left_out() -> None:
    stub = Stub(
        lambda _, seed: f"{seed}", False, refuses=("n", "temperature", "seed", "max_completion_tokens")
    )
    with serve(stub) as url:
        reply = await backend(url).complete(ASK, Sampling(n=3, temperature=1.0, max_tokens=50))
    assert len(reply.choices) == 3
    assert reply.usage.requests == len(stub.served) == 3
    assert all(body["max_tokens"] == 50 for body in stub.served)


PASSING = {
    "429": status(429),
    "429 with Retry-After": status(429, "0.01"),
    "500": status(500),
    "503": status(503),
    "dropped": drop,
    "half JSON": half_json,
    "stall": stall(1.5),
    "empty choices": empty_choices,
    "wrong n": wrong_n,
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_what_may_succeed_later_is_tried_again(fault: object) -> None:
    stub = Stub(say)
    with serve(stub) as url:
        plain = await backend(url, 1).complete(ASK, Sampling(seed=3))
        stub.faults = [fault, fault]
        assert await backend(url, 1).complete(ASK, Sampling(seed=3)) == plain
        stub.faults = [status(500)] * 4
        with pytest.raises(TransientError):
            await backend(url, 1).complete(ASK, Sampling(seed=3))


async def test_retry_after_is_honoured() -> None:
    stub = Stub(say)
    with serve(stub) as url:
        used = backend(url, longest_wait=10)
        await used.complete(ASK, Sampling())
        stub.faults = [status(429, "0.7")]
        start = time.monotonic()
        await used.complete(ASK, Sampling())
        assert time.monotonic() - start >= 0.7


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (status(401, message="bad key"), ConfigError, "set a valid key in the environment variable NO_KEY"),
        (status(404, message="no such model"), ConfigError, "check backend.base_url, backend.model"),
        (status(400, message="too long"), BackendError, "too long"),
    ],
)
async def test_what_no_retry_mends_is_final(fault: object, kind: type[Exception], said: str) -> None:
    stub = Stub(say)
    with serve(stub) as url:
        used = backend(url)
        await used.complete(ASK, Sampling())
        stub.faults = [fault]
        with pytest.raises(kind, match=said):
            await used.complete(ASK, Sampling())
        assert len(stub.served) == 1


async def test_a_filtered_reply_and_a_full_window_are_final() -> None:
    stub = Stub(say)
    with serve(stub) as url:
        stub.finish = "content_filter"
        with pytest.raises(BackendError, match="ended with 'content_filter'"):
            await backend(url).complete(ASK, Sampling())
        stub.finish, stub.window = None, 10
        with pytest.raises(BackendError, match="the server's window 10; shorten the problem"):
            await backend(url).complete(Prompt(ASK.messages, "so "), Sampling())


async def test_the_tokenizer_must_be_the_servers(base_model: Path) -> None:
    with serve(Stub(say)) as url:
        OPEN.append(OpenAIBackend(url, "m", "NO_KEY", 5, str(base_model)))
        with pytest.raises(ConfigError, match="base is not the tokenizer of what http"):
            await OPEN[-1].complete(ASK, Sampling())


async def test_a_base_url_without_v1_and_an_unknown_model_are_named() -> None:
    with pytest.raises(ConfigError, match="should end in /v1"):
        backend("http://127.0.0.1:1")
    with serve(Stub(say, tokenises=False)) as url:
        used = backend(url, model="other")
        with pytest.raises(ConfigError, match="does not serve 'other'; it has m"):
            await used.complete(ASK, Sampling())


def searched(stub: Stub, problems: int, store: Path | None = None) -> list[object]:
    """The preferences of a search on the stub."""
    with serve(stub) as url:
        used = backend(url, 1, attempts=30)
        behind = Stored(used, ResponseStore(store), "m") if store else used
        generator = SampleGenerator(behind, "demo_solve", "line", 1.0, 1.0, 40)
        strategy = StepSearch(generator, RandomJudge(), 3, 10, 2)
        trees: list[object] = []
        asked = [Problem(str(i), f"{i}+1") for i in range(problems)]

        async def search() -> None:
            await search_all(strategy, enumerate(asked), 0, 32, lambda _, tree: trees.append(tree))
            await close_all()

        asyncio.run(search())
    assert sorted(tree.problem.id for tree in trees) == sorted(problem.id for problem in asked)
    assert not [tree for tree in trees if tree.status == "failed"]
    return collect(trees)[0]


@pytest.mark.slow
def test_with_a_third_of_the_requests_failing_a_search_gives_the_same_preferences(tmp_path: Path) -> None:
    calm, rough = Stub(say), Stub(say)
    rough.rate = 0.3
    rough.kinds = [status(429), status(429, "0.01"), status(500), drop, half_json, stall(1.2)]
    rough.kinds += [empty_choices, wrong_n]
    expected = searched(calm, 200)
    assert expected
    assert searched(rough, 200, tmp_path / "rough.sqlite") == expected
    right = [body for body in rough.served if body not in calm.served]
    assert not right, "no request that the calm search did not make"
    with sqlite3.connect(tmp_path / "rough.sqlite") as stored:
        samples = stored.execute("SELECT COUNT(*), COUNT(DISTINCT key) FROM responses").fetchone()
    assert samples == (3 * len(calm.served), len(calm.served)), "each request once, no failed one"


async def test_a_rate_limit_is_learned_from_429s() -> None:
    stub = Stub(say)
    stub.per_second = 20
    with serve(stub) as url:
        OPEN.append(OpenAIBackend(url, "m", "NO_KEY", 5))
        await OPEN[-1].complete(ASK, Sampling())
        used = Retrying(Pool([RateLimited(OPEN[-1])], 64), 30, 0.05)
        async with asyncio.TaskGroup() as group:
            for seed in range(100):
                group.create_task(used.complete(ASK, Sampling(seed=seed)))
    assert len(stub.served) == 101
    assert stub.refused < 100, f"{stub.refused} requests too early for 100 that were served"


async def test_configured_rates_and_headers_space_the_requests() -> None:
    stub = Stub(say)
    with serve(stub) as url:
        OPEN.append(OpenAIBackend(url, "m", "NO_KEY", 5))
        await OPEN[-1].complete(ASK, Sampling())
        start = time.monotonic()
        used = RateLimited(OPEN[-1], requests_per_minute=600)
        for seed in range(4):
            await used.complete(ASK, Sampling(seed=seed))
        assert time.monotonic() - start >= 0.3
        stub.headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "400ms"}
        await used.complete(ASK, Sampling(seed=7))
        start = time.monotonic()
        await used.complete(ASK, Sampling(seed=8))
        assert time.monotonic() - start >= 0.35


async def test_tokens_per_minute_are_kept() -> None:
    reply = Completions((Completion("x", "end"),), "", None, Usage(1, 90, 10))

    class Costly:
        async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
            return reply

    used = RateLimited(Costly(), tokens_per_minute=60_000)  # 100 tokens take 0.1 s
    start = time.monotonic()
    for seed in range(5):
        await used.complete(ASK, Sampling(seed=seed))
    assert 0.35 <= time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("6m0s", 360), ("120ms", 0.12), ("2.5", 2.5), ("", 0), ("soon", 0)]
)
def test_durations_of_rate_limit_headers(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)
