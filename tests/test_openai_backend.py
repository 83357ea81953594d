"""The OpenAI-compatible backend against a loopback server that misbehaves on order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from stub_server import Stub, drop, half_json, serve, stall, status

from stepagent import BackendError, ConfigError, Message, Problem, Prompt, Sampling
from stepagent.backends.openai import OpenAIBackend
from stepagent.backends.retry import Retrying
from stepagent.errors import TransientError
from stepagent.generators.sample import SampleGenerator
from stepagent.judges.random import RandomJudge
from stepagent.preferences import collect
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
    return Retrying(OPEN[-1], attempts, 16, longest_wait)


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


async def test_a_chat_endpoint_judges_but_does_not_continue() -> None:
    with serve(Stub(lambda *_: "well, [[A]]", tokenises=False)) as url:
        reply = await backend(url).complete(ASK, Sampling(max_tokens=50))
        with pytest.raises(ConfigError, match="can judge but not propose steps"):
            await backend(url).complete(Prompt(ASK.messages, "so far"), Sampling())
    assert reply.choices[0].text == "well, [[A]]", "without the separate reasoning"
    assert reply.prompt_ids is None
    assert reply.usage.requests == 1


@pytest.mark.parametrize(
    "fault",
    [status(429), status(429, "0.01"), status(500), status(503), drop, half_json, stall(1.5)],
    ids=["429", "429 with Retry-After", "500", "503", "dropped", "half JSON", "stall"],
)
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
        (status(404, message="no such model"), ConfigError, "check backend.base_url and backend.model"),
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
            await backend(url).complete(ASK, Sampling())


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


def searched(stub: Stub, problems: int) -> list[object]:
    """The preferences of a search on the stub."""
    with serve(stub) as url:
        generator = SampleGenerator(backend(url, 1, attempts=30), "demo_solve", "line", 1.0, 1.0, 40)
        strategy = StepSearch(generator, RandomJudge(), 3, 10, 2)
        trees: list[object] = []
        asked = [Problem(str(i), f"{i}+1") for i in range(problems)]

        async def search() -> None:
            await search_all(strategy, asked, 0, 32, trees.append)
            await close_all()

        asyncio.run(search())
    assert sorted(tree.problem.id for tree in trees) == sorted(problem.id for problem in asked)
    assert not [tree for tree in trees if tree.status == "failed"]
    return collect(trees)[0]


@pytest.mark.slow
def test_with_a_third_of_the_requests_failing_a_search_gives_the_same_preferences() -> None:
    calm, rough = Stub(say), Stub(say)
    rough.rate = 0.3
    rough.kinds = [status(429), status(429, "0.01"), status(500), drop, half_json, stall(1.2)]
    expected = searched(calm, 200)
    assert expected
    assert searched(rough, 200) == expected
    assert len(rough.served) == len(calm.served)
