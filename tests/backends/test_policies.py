"""The response store and the budget, around scripted backends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stepagent import BackendError, Completions, ConfigError, Message, Prompt, Sampling, Usage
from stepagent.backends.budget import Budget, Budgeted
from stepagent.backends.scripted import ScriptedBackend
from stepagent.backends.store import ResponseStore, Stored
from stepagent.config.settings import BudgetSettings, Price
from stepagent.errors import BudgetError, DataError
from stepagent.interfaces import Backend

ASK = Prompt((Message("user", "1+1"),), "so ", tuple(b"so "))


def talker() -> ScriptedBackend:
    return ScriptedBackend(reply=lambda _, seed: f"{seed % 1000}")


async def test_a_stored_response_is_never_requested_again(tmp_path: Path) -> None:
    inner = talker()
    first = await Stored(inner, ResponseStore(tmp_path / "r.sqlite"), "w1").complete(ASK, Sampling(n=3))
    wrapped = Stored(inner, ResponseStore(tmp_path / "r.sqlite"), "w1")
    assert await wrapped.complete(ASK, Sampling(n=3)) == first, "every field of it, cost included"
    assert (await wrapped.complete(ASK, Sampling(n=2))).choices == first.choices[:2]
    assert len(inner.prompts) == 1
    assert wrapped.replayed == 2


async def test_a_store_that_cannot_be_written_says_so_and_hangs_nobody(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "r.sqlite")
    store._db.execute("PRAGMA query_only = ON")
    wrapped = Stored(talker(), store, "w")

    async def request(seed: int) -> None:
        with pytest.raises(DataError, match=r"r\.sqlite: replies cannot be stored \(.*\); free the disk"):
            await wrapped.complete(ASK, Sampling(seed=seed))

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for seed in range(3):
            group.create_task(request(seed))
    store._db.execute("PRAGMA query_only = OFF")
    assert await wrapped.complete(ASK, Sampling()), "and the next one goes on"


async def test_other_weights_prompts_and_draws_are_asked_anew(tmp_path: Path) -> None:
    inner, store = talker(), ResponseStore(tmp_path / "r.sqlite")
    await Stored(inner, store, "w1").complete(ASK, Sampling())
    await Stored(inner, store, "w2").complete(ASK, Sampling())
    wrapped = Stored(inner, store, "w1")
    for prompt, sampling in (
        (Prompt(ASK.messages, "so ", tuple(b"so  ")), Sampling()),
        (Prompt((Message("system", "1+1"),), "so ", tuple(b"so ")), Sampling()),
        (ASK, Sampling(seed=1)),
        (ASK, Sampling(temperature=0.5)),
        (ASK, Sampling(stop=("\n",))),
    ):
        await wrapped.complete(prompt, sampling)
    assert len(inner.prompts) == 7
    assert wrapped.replayed == 0


async def test_more_samples_ask_only_for_the_missing_ones(tmp_path: Path) -> None:
    requests: list[Sampling] = []

    class Recorder:
        async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
            requests.append(sampling)
            return await talker().complete(prompt, sampling)

    wrapped = Stored(Recorder(), ResponseStore(tmp_path / "r.sqlite"), "w")
    two = await wrapped.complete(ASK, Sampling(n=2, seed=5))
    six = await wrapped.complete(ASK, Sampling(n=6, seed=5))
    assert six.choices[:2] == two.choices
    assert len(six.choices) == 6
    assert (requests[1].n, requests[1].seed) == (4, 7), "vLLM draws sample i with seed s + i"
    assert six.usage.requests == 2


async def test_a_failed_request_is_not_stored(tmp_path: Path) -> None:
    class BrokenBackend:
        async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
            raise BackendError("no")

    store = ResponseStore(tmp_path / "r.sqlite")
    with pytest.raises(BackendError):
        await Stored(BrokenBackend(), store, "w").complete(ASK, Sampling())
    assert store.spent() == {}
    await Stored(talker(), store, "w").complete(ASK, Sampling())
    assert store.spent()[""].requests == 1


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.sqlite").write_text("not a database, but long enough to be taken for one" * 30)
    with pytest.raises(DataError, match=r"r\.sqlite: not a usable response store .* move it away"):
        ResponseStore(tmp_path / "r.sqlite")


class SlowBackend:
    """Answers 100 tokens after a moment."""

    def __init__(self) -> None:
        self.started = self.ended = 0

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        self.started += 1
        await asyncio.sleep(0.01)
        self.ended += 1
        return Completions((), "", None, Usage(1, 90, 10))


async def outcomes_of(backend: Backend, count: int) -> list[BaseException | None]:
    async def ask(seed: int) -> BaseException | None:
        try:
            await backend.complete(ASK, Sampling(seed=seed))
        except BudgetError as error:
            return error
        return None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(seed)) for seed in range(count)]
    return [task.result() for task in tasks]


async def test_a_budget_ends_a_run_after_what_is_in_flight_has_ended() -> None:
    inner = SlowBackend()
    budget = Budget(BudgetSettings(tokens=1000))
    wrapped = Budgeted(inner, budget, "m")
    outcomes = [outcome for _ in range(8) for outcome in await outcomes_of(wrapped, 4)]
    errors = [outcome for outcome in outcomes if outcome]
    assert inner.started == inner.ended == 32 - len(errors)
    assert 900 <= budget.tokens <= 1000, "with what is in flight counted, it is not passed"
    assert "budget.tokens (1,000) is used up: " in str(errors[0])
    assert "goes on from there" in str(errors[0])


async def test_money_is_counted_by_model_and_needs_its_price() -> None:
    prices = {"dear": Price(prompt=10, completion=100), "own": Price(prompt=0, completion=0)}
    budget = Budget(BudgetSettings(money=0.0095), prices)
    with pytest.raises(ConfigError, match=r"budget\.money is set, but 'other' has no price; add prices: "):
        Budgeted(SlowBackend(), budget, "other")
    await outcomes_of(Budgeted(SlowBackend(), budget, "own"), 3)
    assert budget.money == 0
    dear = Budgeted(SlowBackend(), budget, "dear")
    for _ in range(10):
        await outcomes_of(dear, 1)
    assert budget.money == pytest.approx(5 * (90 * 10 + 10 * 100) / 1e6)
    assert budget.note() == "8 requests, 800 tokens, cost 0.0095"


async def test_what_an_earlier_start_spent_counts() -> None:
    budget = Budget(BudgetSettings(tokens=300), spent={"m": Usage(3, 280, 20)})
    assert await outcomes_of(Budgeted(SlowBackend(), budget, "m"), 1) != [None]
    assert await outcomes_of(Budgeted(SlowBackend(), Budget(BudgetSettings(seconds=1)), "m"), 1) == [None]
