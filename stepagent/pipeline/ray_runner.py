"""A search on several machines: Ray actors search, the driver alone writes trees, one actor beside it the
store.

Every worker runs the same search against the same endpoints as one process would. A worker that dies is
started again, and what it had open is searched by another: the driver takes one tree for each problem.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stepagent.backends.budget import Budget
from stepagent.backends.pool import Opening, Turn, turn
from stepagent.backends.store import ResponseStore
from stepagent.config import Config
from stepagent.errors import BackendError, StepagentError
from stepagent.interfaces import SearchStrategy
from stepagent.pipeline.components import make_components
from stepagent.pipeline.resources import Resources
from stepagent.tree import StepTree
from stepagent.types import Completions, Problem, Usage

_DEATHS = 3  # of the workers that searched one problem, after which it is to blame


class Ledger:
    """The run's response store and budget, for all workers."""

    def __init__(self, settings: dict[str, Any], folder: str) -> None:
        config = Config.model_validate(settings)
        self._store = ResponseStore(Path(folder) / "responses.sqlite")
        self._budget = Budget(config.budget, config.prices, self._store.spent())

    async def get(self, key: str, count: int) -> Completions | None:
        """See ResponseStore."""
        return await self._store.get(key, count)

    async def put(self, key: str, first: int, reply: Completions, model: str) -> None:
        """See ResponseStore."""
        await self._store.put(key, first, reply, model)

    async def begin(self) -> None:
        """See Budget."""
        await self._budget.begin()

    async def end(self, model: str, usage: Usage) -> dict[str, Usage]:
        """See Budget. Returns all that is spent."""
        await self._budget.end(model, usage)
        return self._budget.spent

    async def spent(self) -> dict[str, Usage]:
        """By model."""
        return self._budget.spent


class _RemoteStore:
    """The ledger's store, as a worker asks it."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    async def get(self, key: str, count: int) -> Completions | None:
        found: Completions | None = await self._ledger.get.remote(key, count)
        return found

    async def put(self, key: str, first: int, reply: Completions, model: str) -> None:
        await self._ledger.put.remote(key, first, reply, model)

    def close(self) -> None:
        """The ledger closes it."""


class _RemoteBudget(Budget):
    """The ledger's budget, as a worker asks it."""

    def __init__(self, ledger: Any) -> None:
        super().__init__()
        self._ledger = ledger

    async def begin(self) -> None:
        try:
            await self._ledger.begin.remote()
        except RayTaskError as error:
            raise _cause(error) from None

    async def end(self, model: str, usage: Usage) -> None:
        await self._ledger.end.remote(model, usage)


class Worker:
    """Searches one problem a call, many calls at once."""

    def __init__(self, settings: dict[str, Any], model: str, cwd: str, ledger: Any) -> None:
        if Path(cwd).is_dir():
            os.chdir(cwd)
        config = Config.model_validate(settings)
        resources = Resources(config, Path(cwd), _RemoteStore(ledger), _RemoteBudget(ledger))
        self._strategy = make_components(config, model, resources).strategy
        self._opening = Opening()

    async def search(self, place: int, problem: Problem, seed: int) -> StepTree:
        """The finished tree."""
        turn.set(Turn(place, opening=self._opening))
        return await self._strategy.search(problem, seed)

    async def last_are_open(self) -> None:
        """See Turn."""
        self._opening.over = True


def ray_search(config: Config, model: str, folder: Path, workers: int, budget: Budget) -> Callable[..., Any]:
    """What searches in place of `search_all`, on `workers` actors. Connects to the cluster of $RAY_ADDRESS,
    or starts Ray on this machine."""

    async def search_all(
        _: SearchStrategy,
        problems: Iterable[tuple[int, Problem]],
        seed: int,
        concurrency: int,
        finished: Callable[[int, StepTree], None],
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            settings = config.model_dump(mode="json")
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            ledger = (
                ray.remote(Ledger)
                .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
                .remote(settings, str(folder))
            )
            make = ray.remote(Worker).options(max_restarts=-1, max_concurrency=concurrency)
            pool = [make.remote(settings, model, os.getcwd(), ledger) for _ in range(workers)]
            await _share_out(pool, ledger, problems, seed, concurrency, finished, budget)
        except RayTaskError as error:
            raise _cause(error) from None
        finally:
            ray.shutdown()

    return search_all


async def _share_out(
    pool: list[Any],
    ledger: Any,
    problems: Iterable[tuple[int, Problem]],
    seed: int,
    concurrency: int,
    finished: Callable[[int, StepTree], None],
    budget: Budget,
) -> None:
    stream = iter(problems)
    open_trees = [0] * len(pool)

    async def searched(place: int, problem: Problem) -> StepTree:
        for _ in range(_DEATHS):
            index = open_trees.index(min(open_trees))
            open_trees[index] += 1
            try:
                tree: StepTree = await pool[index].search.remote(place, problem, seed)
                return tree
            except RayActorError as error:
                why = str(error).partition("\n")[0]
            finally:
                open_trees[index] -= 1
        raise BackendError(f"{_DEATHS} workers died one after the other on problem '{problem.id}': {why}")

    async def work() -> None:
        for place, problem in stream:
            tree = await searched(place, problem)
            budget.spent = await ledger.spent.remote()
            finished(place, tree)
        for worker in pool:
            worker.last_are_open.remote()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


def _cause(error: RayTaskError) -> BaseException:
    """What a worker raised: a sentence, if it is one of ours."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, StepagentError) else error
