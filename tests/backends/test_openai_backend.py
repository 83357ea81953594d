"""The OpenAI-compatible backend against a loopback server that misbehaves on order."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from stepagent import (
    BackendError,
    ConfigError,
    Message,
    Problem,
    Prompt,
    Sampling,
    StepPreference,
    StepTree,
)
from stepagent.backends.endpoint import Endpoint
from stepagent.backends.openai import OpenAIBackend
from stepagent.backends.pool import Pool
from stepagent.backends.retry import Retrying
from stepagent.backends.store import ResponseStore, Stored
from stepagent.errors import TransientError
from stepagent.generators.sample import SampleGenerator
from stepagent.judges.random import RandomJudge
from stepagent.strategies.runner import search_all
from stepagent.strategies.step import StepSearch
from stepagent.testing.stub_server import Fault, Stub, drop, empty_choices, half_json, serve, stall, status, wrong_n

Open = Callable[..., OpenAIBackend]
Retry = Callable[..., Retrying]
Collect = Callable[[Iterable[StepTree]], tuple[list[StepPreference], Counter[str]]]

ASK = Prompt((Message("user", "1+1"),))


def say(context: str, seed: int) -> str:
    """Lines of sums; after three, the end."""
    lines = context.rpartition("<assistant>")[2].count("\n")
    number = random.Random(f"{context}{seed}").randrange(4)
    return f"={number}" if lines == 3 else f"{lines}+{number}\nmore\n"


async def test_a_step_continues_the_sampled_tokens_exactly(retrying: Retry) -> None:
    stub = Stub(say)
    with serve(stub) as url:
        prefix = "0+1\n"
        prompt = Prompt(ASK.messages, prefix, tuple(prefix.encode()))
        reply = await retrying(url).complete(prompt, Sampling(n=3, stop=("\n",), seed=7, max_tokens=50))
        ended = await retrying(url).complete(Prompt(ASK.messages, "\n\n\n", tuple(b"\n\n\n")), Sampling(stop=("\n",)))
        cut = await retrying(url).complete(ASK, Sampling(max_tokens=2))
    assert reply.prompt_ids == tuple(b"<user>1+1<assistant>0+1\n")
    assert reply.prompt_text == "<user>1+1<assistant>0+1\n"
    assert [choice.finish_reason for choice in reply.choices] == ["stop"] * 3
    for choice in reply.choices:
        assert choice.text.endswith("\n")
        assert bytes(choice.token_ids or ()).decode() == choice.text
        assert len(choice.logprobs or ()) == len(choice.token_ids or ())
    assert stub.requests[0]["prompt"] == list(b"<user>1+1<assistant>0+1\n")
    assert ended.choices[0].finish_reason == "end"
    assert ended.choices[0].token_ids is not None
    assert ended.choices[0].token_ids[-1] == 256
    assert cut.choices[0].finish_reason == "length"


async def test_a_chat_endpoint_judges_without_the_reasoning_before_the_reply(retrying: Retry) -> None:
    with serve(Stub(lambda *_: "<think>A or B?</think>\n\nwell, [[A]]", tokenises=False)) as url:
        reply = await retrying(url).complete(ASK, Sampling(max_tokens=50))
    assert reply.choices[0].text == "well, [[A]]", "neither the separate reasoning nor the tagged one"
    assert reply.prompt_ids is None
    assert reply.usage.requests == 1


async def test_a_server_that_continues_turns_is_given_the_half_written_one(retrying: Retry) -> None:
    stub = Stub(lambda context, _: " 2\nStep 2: x" if context.endswith("Step 1:") else "?", False, True)
    with serve(stub) as url:
        prompt = Prompt(ASK.messages, "so\nStep 1:", None)
        reply = await retrying(url).complete(prompt, Sampling(n=2, stop=("\nStep 2:",), max_tokens=50))
        ended = await retrying(url).complete(prompt, Sampling(stop=("\nStep 3:",), max_tokens=50))
    assert [choice.text for choice in reply.choices] == [" 2\nStep 2:"] * 2
    assert [choice.finish_reason for choice in reply.choices] == ["stop"] * 2
    assert ended.choices[0].finish_reason == "end"
    assert stub.requests[0]["messages"][-1] == {"role": "assistant", "content": "so\nStep 1:"}


@pytest.mark.parametrize(
    ("words", "text", "reason"),
    [
        ("1+1=2", " 1+1=2\nStep 3:", "stop"),
        ("Step 2: 1+1=2\n", " 1+1=2\nStep 3:", "stop"),
        ("Step 2: 1+1=2\nStep 3: so", " 1+1=2\nStep 3:", "stop"),
        ("Step 2: it is 2 [[END]]", " it is 2", "end"),
    ],
)
async def test_a_hosted_api_is_shown_the_prefix_and_asked_for_the_next_step(
    retrying: Retry, words: str, text: str, reason: str
) -> None:
    stub = Stub(lambda *_: words, tokenises=False)
    with serve(stub) as url:
        prompt = Prompt(ASK.messages, "Step 1: hm\nStep 2:", None)
        reply = await retrying(url).complete(prompt, Sampling(stop=("\nStep 3:",), max_tokens=50))
    assert [(c.text, c.finish_reason, c.token_ids) for c in reply.choices] == [(text, reason, None)]
    assert reply.prompt_text.endswith("Step 1: hm\nStep 2:")
    turns = stub.requests[0]["messages"]
    assert len(turns) == 1
    assert "1+1" in turns[0]["content"]
    assert "Step 1: hm\nStep 2:" in turns[0]["content"]
    assert "stop" not in stub.requests[0], "it could not tell a step's end from the solution's"


async def test_parameters_that_an_endpoint_refuses_are_left_out(retrying: Retry) -> None:
    stub = Stub(lambda _, seed: f"{seed}", False, refuses=("n", "temperature", "seed", "max_completion_tokens"))
    with serve(stub) as url:
        reply = await retrying(url).complete(ASK, Sampling(n=3, temperature=1.0, max_tokens=50))
    assert len(reply.choices) == 3
    assert reply.usage.requests == len(stub.requests) == 3
    assert all(body["max_tokens"] == 50 for body in stub.requests)


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
async def test_what_may_succeed_later_is_tried_again(retrying: Retry, fault: Fault) -> None:
    stub = Stub(say)
    with serve(stub) as url:
        plain = await retrying(url, 1).complete(ASK, Sampling(seed=3))
        stub.faults = [fault, fault]
        assert await retrying(url, 1).complete(ASK, Sampling(seed=3)) == plain
        stub.faults = [status(503)] * 4
        with pytest.raises(TransientError):
            await retrying(url, 1).complete(ASK, Sampling(seed=3))


async def test_retry_after_is_honoured(retrying: Retry) -> None:
    stub = Stub(say)
    with serve(stub) as url:
        backend = retrying(url, longest_wait=10)
        await backend.complete(ASK, Sampling())
        stub.faults = [status(429, "0.7")]
        start = time.monotonic()
        await backend.complete(ASK, Sampling())
        assert time.monotonic() - start >= 0.7


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (status(401, message="bad key"), ConfigError, "set a valid key in the environment variable NO_KEY"),
        (status(404, message="no such model"), ConfigError, "check backend.base_url, backend.model"),
        (status(400, message="too long"), BackendError, "too long"),
    ],
)
async def test_what_no_retry_mends_is_final(retrying: Retry, fault: Fault, kind: type[Exception], message: str) -> None:
    stub = Stub(say)
    with serve(stub) as url:
        backend = retrying(url)
        await backend.complete(ASK, Sampling())
        stub.faults = [fault]
        with pytest.raises(kind, match=message):
            await backend.complete(ASK, Sampling())
        assert len(stub.requests) == 1


async def test_a_filtered_reply_and_a_full_window_are_final(retrying: Retry) -> None:
    stub = Stub(say)
    with serve(stub) as url:
        stub.finish = "content_filter"
        with pytest.raises(BackendError, match="ended with 'content_filter'"):
            await retrying(url).complete(ASK, Sampling())
        stub.finish, stub.window = None, 10
        with pytest.raises(BackendError, match="the server's window 10; shorten the problem"):
            await retrying(url).complete(Prompt(ASK.messages, "so "), Sampling())


async def test_the_tokenizer_must_be_the_servers(endpoint: Open, base_model: Path) -> None:
    with serve(Stub(say)) as url:
        backend = endpoint(url, tokenizer=str(base_model))
        with pytest.raises(ConfigError, match="base is not the tokenizer of what http"):
            await backend.complete(ASK, Sampling())


async def test_an_address_that_is_none_and_an_unknown_model_are_named(retrying: Retry) -> None:
    with pytest.raises(ConfigError, match="is no address; write http://HOST:PORT/v1"):
        retrying("http:// 127.0.0.1")
    stub = Stub(say, tokenises=False)
    with serve(stub) as url:
        backend = retrying(url, model="other")
        stub.faults = [status(404)] * 2
        with pytest.raises(ConfigError, match="does not serve 'other'; it has m"):
            await backend.complete(ASK, Sampling())
        with pytest.raises(ConfigError, match="most addresses end in /v1"):
            await retrying(url.removesuffix("/v1")).complete(ASK, Sampling())


def preferences_of_a_search(
    stub: Stub, problems: int, collect: Collect, store: Path | None = None
) -> list[StepPreference]:
    """Search on the stub, and return the preferences."""
    with serve(stub) as url:
        endpoint = OpenAIBackend(Endpoint(url, "m", "NO_KEY", timeout=1))
        patient = Retrying(Pool([endpoint], 16), 30, 0.05)
        backend = Stored(patient, ResponseStore(store), "m") if store else patient
        generator = SampleGenerator(backend, "demo_solve", "line", temperature=1.0, top_p=1.0, max_tokens=40)
        strategy = StepSearch(generator, RandomJudge(), 3, max_iterations=10, max_rollbacks=2)
        trees: list[StepTree] = []
        questions = [Problem(str(i), f"{i}+1") for i in range(problems)]

        async def search() -> None:
            await search_all(
                strategy, enumerate(questions), 0, concurrency=32, finished=lambda _, tree: trees.append(tree)
            )
            await endpoint.close()

        asyncio.run(search())
    assert sorted(tree.problem.id for tree in trees) == sorted(problem.id for problem in questions)
    assert not [tree for tree in trees if tree.status == "failed"]
    return collect(trees)[0]


@pytest.mark.slow
def test_with_a_third_of_the_requests_failing_a_search_gives_the_same_preferences(
    tmp_path: Path, collect: Collect
) -> None:
    calm, rough = Stub(say), Stub(say)
    rough.rate = 0.3
    rough.kinds = [status(429), status(429, "0.01"), status(500), drop, half_json, stall(1.2)]
    rough.kinds += [empty_choices, wrong_n]
    expected = preferences_of_a_search(calm, 200, collect)
    assert expected
    assert preferences_of_a_search(rough, 200, collect, tmp_path / "rough.sqlite") == expected
    right = [body for body in rough.requests if body not in calm.requests]
    assert not right, "no request that the calm search did not make"
    with sqlite3.connect(tmp_path / "rough.sqlite") as stored:
        samples = stored.execute("SELECT COUNT(*), COUNT(DISTINCT key) FROM responses").fetchone()
    assert samples == (3 * len(calm.requests), len(calm.requests)), "each request once, no failed one"
