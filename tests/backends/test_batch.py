"""Requests through a batch endpoint: sent once, answered one by one, found again by a command that was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from batch_server import BatchServer, serve_batches

from stepagent import BackendError, Completions, ConfigError, Message, Prompt, Sampling
from stepagent.backends import batch as batch_room
from stepagent.backends.openai import openai_backend


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = batch_room.BatchEndpoint.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "quiet", 0.05)
    monkeypatch.setitem(defaults, "poll", 0.02)


def echo(request: dict[str, Any]) -> tuple[int, Any]:
    """Answer with the question's length; a question that says `bad` is refused, one that says `lost` is lost."""
    text = request["messages"][-1]["content"]
    if "bad" in text:
        return 400, {"error": {"message": "this prompt is not allowed"}}
    if "lost" in text:
        return 0, None
    choice = {"message": {"role": "assistant", "content": f"{len(text)}"}, "finish_reason": "stop"}
    choices = [{**choice, "index": index} for index in range(request.get("n") or 1)]
    return 200, {"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}


async def ask(url: str, questions: Sequence[str], **settings: Any) -> list[Completions | BaseException]:
    backend = openai_backend(url, "m", batch=True, **{"attempts": 1, **settings})
    tasks = [
        asyncio.ensure_future(backend.complete(Prompt((Message("user", text),)), Sampling(max_tokens=5)))
        for text in questions
    ]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await backend.close()  # type: ignore[attr-defined]
    return [task.exception() or task.result() for task in tasks]


def texts(replies: Sequence[Completions | BaseException]) -> list[str]:
    return [reply.choices[0].text if isinstance(reply, Completions) else str(reply) for reply in replies]


def test_all_that_is_asked_at_once_is_one_batch_and_the_probe_is_none() -> None:
    server = BatchServer(echo)
    with serve_batches(server) as url:
        replies = asyncio.run(ask(url, ["one", "three", "one"]))
    assert texts(replies) == ["3", "5", "3"]
    (lines,) = server.lines
    assert [line["body"]["messages"][-1]["content"] for line in lines] == ["one", "three"], "the same request once"
    assert {(line["method"], line["url"], line["body"]["model"]) for line in lines} == {
        ("POST", "/v1/chat/completions", "m")
    }
    assert set(server.prompts).isdisjoint({"one", "three"}), "abilities are asked for at once"
    assert isinstance(replies[0], Completions)
    assert (replies[0].usage.prompt_tokens, replies[0].usage.completion_tokens) == (3, 1)


def test_a_refused_request_is_one_failure_with_the_servers_words() -> None:
    server = BatchServer(echo)
    with serve_batches(server) as url:
        replies = asyncio.run(ask(url, ["good", "bad"]))
    assert texts(replies)[0] == "4"
    assert isinstance(replies[1], BackendError)
    assert "this prompt is not allowed (status 400)" in str(replies[1])


def test_a_request_without_a_reply_goes_into_the_next_batch() -> None:
    server = BatchServer(echo)
    with serve_batches(server) as url:
        replies = asyncio.run(ask(url, ["good", "lost"]))
        assert texts(replies)[0] == "4"
        assert "ended without a reply to this request" in str(replies[1])
        losses = ["late"]

        def respond(request: dict[str, Any]) -> tuple[int, Any]:
            text = request["messages"][-1]["content"]
            if text in losses:
                losses.remove(text)
                return 0, None
            return echo(request)

        server.respond = respond
        assert texts(asyncio.run(ask(url, ["late"], attempts=3))) == ["4"]
    assert [len(lines) for lines in server.lines] == [2, 1, 1]


def test_a_command_that_was_stopped_waits_for_its_own_batch() -> None:
    server = BatchServer(echo)

    async def stopped(url: str) -> None:
        task = asyncio.ensure_future(ask(url, ["one", "three"]))
        await asyncio.to_thread(server.created.wait)
        task.cancel()
        await asyncio.wait([task])

    with serve_batches(server) as url:
        asyncio.run(stopped(url))
        assert texts(asyncio.run(ask(url, ["three", "one"]))) == ["5", "3"]
        assert len(server.batches) == 1, "nothing is paid twice"
        asyncio.run(ask(url, ["three", "other"]))
    assert len(server.batches) == 2, "other requests are another batch"


def test_a_server_without_batches_and_a_batch_that_fails_are_one_sentence() -> None:
    with serve_batches(BatchServer(echo, has_batches=False)) as url:
        (reply,) = asyncio.run(ask(url, ["one"]))
    assert isinstance(reply, ConfigError)
    assert "backend.batch: this server has no batches; leave batch out" in str(reply)
    with serve_batches(BatchServer(echo, outcome="failed")) as url:
        (reply,) = asyncio.run(ask(url, ["one"]))
    assert "the batch batch-0 failed: the file is no JSONL" in str(reply)


def test_a_batch_keeps_to_the_servers_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_room, "MOST_REQUESTS", 2)
    server = BatchServer(echo)
    with serve_batches(server) as url:
        assert texts(asyncio.run(ask(url, ["a", "bb", "ccc"]))) == ["1", "2", "3"]
    assert sorted(map(len, server.lines)) == [1, 2]
