"""Endpoints behind one backend; old problems first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from stepagent import (
    Completions,
    Message,
    Prompt,
    Sampling,
    Usage,
)
from stepagent.backends.openai import openai_backend
from stepagent.backends.pool import Opening, Pool, Turn, turn
from stepagent.errors import TransientError
from stepagent.testing.stub_server import Stub, drop, serve

ASK = Prompt((Message("user", "1+1"),))


class SlowEndpoint:
    """Endpoint that answers after a while, or once its gate opens; records who asked and how many at once."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.places: list[int] = []
        self.open = self.most = 0
        self.down = False
        self.gate: asyncio.Event | None = None

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        self.places.append(asker.place if (asker := turn.get(None)) else 0)
        if self.down:
            raise TransientError("gone")
        self.open += 1
        self.most = max(self.most, self.open)
        await (self.gate.wait() if self.gate else asyncio.sleep(self.seconds))
        self.open -= 1
        return Completions((), "", None, Usage())


async def ask(pool: Pool, places: Sequence[int]) -> None:
    async def request(place: int) -> None:
        turn.set(Turn(place))
        await pool.complete(ASK, Sampling())

    async with asyncio.TaskGroup() as group:
        for place in places:
            group.create_task(request(place))


async def test_the_oldest_problem_gets_the_next_free_place() -> None:
    slow = SlowEndpoint()
    await ask(Pool([slow], 2), [9, 8, 5, 1, 7, 3, 1])
    assert slow.places == [9, 8, 1, 1, 3, 5, 7], "the first two found a place, the others by age"
    assert slow.most == 2


async def test_when_the_last_are_open_those_furthest_behind_go_first() -> None:
    slow, opening = SlowEndpoint(), Opening(over=True)
    pool = Pool([slow], 1)

    async def request(place: int, count: int) -> None:
        turn.set(Turn(place, count, opening))
        await pool.complete(ASK, Sampling())

    async with asyncio.TaskGroup() as group:
        for place, count in ((0, 9), (1, 7), (2, 3), (3, 5), (4, 3)):
            group.create_task(request(place, count))
    assert slow.places == [0, 2, 4, 3, 1]


async def test_each_request_goes_to_the_endpoint_with_the_fewest() -> None:
    fast, slow = SlowEndpoint(0), SlowEndpoint()
    slow.gate = asyncio.Event()
    pool = Pool([slow, fast], 3)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(ask(pool, range(6)))
        await asyncio.sleep(0)
        await ask(pool, range(6, 36))
        slow.gate.set()
    assert slow.most == fast.most == 3
    assert (len(slow.places), len(fast.places)) == (3, 33), "what the slow one cannot take goes to the fast one"


async def test_an_endpoint_that_fails_rests_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("stepagent.backends.pool.monotonic", lambda: clock)
    good, bad = SlowEndpoint(), SlowEndpoint()
    bad.down = True
    pool = Pool([bad, good], 4)
    with pytest.raises(TransientError):
        await pool.complete(ASK, Sampling())
    await ask(pool, range(8))
    assert (len(bad.places), len(good.places)) == (1, 8)
    clock, bad.down = 1.1, False
    await ask(pool, range(4))
    assert len(bad.places) == 2, "one request tries it first"
    await ask(pool, range(4))
    assert len(bad.places) == 4, "and then it has its share again"


async def test_requests_that_fail_together_are_one_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("stepagent.backends.pool.monotonic", lambda: clock)
    good, bad = SlowEndpoint(), SlowEndpoint()
    bad.down = True
    pool = Pool([bad, good], 64)

    async def request() -> None:
        with suppress(TransientError):
            await pool.complete(ASK, Sampling())

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(request())
    lane = pool._lanes[0]
    assert (lane.failures, lane.rests_until) == (1, 1.0), "a second, not a minute"
    for _ in range(2000):
        clock = lane.rests_until
        lane.rest()
    assert lane.rests_until - clock == 60


async def test_a_request_that_is_cancelled_while_it_waits_leaves_no_hole() -> None:
    slow = SlowEndpoint(0.02)
    pool = Pool([slow], 1)
    tasks = [asyncio.create_task(pool.complete(ASK, Sampling())) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0.03)
    tasks[3].cancel()
    assert [type(task) for task in await asyncio.wait_for(outcomes(tasks), 1)] == [
        Completions,
        asyncio.CancelledError,
        Completions,
        asyncio.CancelledError,
    ]
    assert await pool.complete(ASK, Sampling())


async def outcomes(tasks: Sequence[asyncio.Task[Completions]]) -> list[Completions | BaseException]:
    await asyncio.wait(tasks)
    return [asyncio.CancelledError() if task.cancelled() else task.result() for task in tasks]


async def test_a_request_of_a_real_endpoint_that_dies_is_answered_by_the_other() -> None:
    stub, spare = Stub(lambda context, seed: "2"), Stub(lambda context, seed: "2")
    with serve(stub) as first, serve(spare) as second:
        pool = openai_backend([first, second], "m", max_in_flight=4)
        await ask(pool, range(8))  # type: ignore[arg-type]
        assert len(stub.requests) == len(spare.requests) == 4
        stub.faults += [drop] * 100
        await ask(pool, range(8))  # type: ignore[arg-type]
        assert len(spare.requests) == 12
        await pool.close()  # type: ignore[attr-defined]


class BusyEndpoint(SlowEndpoint):
    """Endpoint that refuses with 429 what is more than `limit` at once, and counts the refusals."""

    def __init__(self, limit: int) -> None:
        super().__init__(0.005)
        self.limit, self.refusals = limit, 0

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        if self.open >= self.limit:
            self.refusals += 1
            raise TransientError("too many", rate_limited=True, status=429)
        return await super().complete(prompt, sampling)


async def served(pool: Pool, requests: int) -> None:
    """Send requests at once, each again until it is answered."""

    async def request() -> None:
        while True:
            with suppress(TransientError):
                await pool.complete(ASK, Sampling())
                return
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        for _ in range(requests):
            group.create_task(request())


async def test_requests_in_flight_settle_at_what_a_busy_server_takes() -> None:
    busy = BusyEndpoint(4)
    pool = Pool([busy], 64)
    await served(pool, 100)
    early = busy.refusals
    await served(pool, 400)
    assert busy.most == 4
    assert busy.refusals - early < 150, "of 400 requests, those that probe for room alone are refused"
    busy.limit, busy.most = 64, 0
    await served(pool, 400)
    assert busy.most > 16, "and the room comes back with the server's"


async def test_an_endpoint_that_refuses_everything_for_a_while_keeps_half_of_its_room() -> None:
    stormy = BusyEndpoint(0)
    pool = Pool([stormy], 32)
    with suppress(BaseExceptionGroup):
        await ask(pool, range(100))
    assert stormy.refusals > 1
    stormy.limit = 64
    await served(pool, 100)
    assert stormy.most >= 16
