"""A search on several machines: Ray actors search, the driver alone writes trees, one actor beside it the store.

Every worker runs the same search against the same endpoints as one process would. A worker that dies is started
again, and its open problems are searched by another: the driver takes one tree for each problem.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Any

from stepagent.assembly.session import Runner, Session
from stepagent.backends.budget import Budget
from stepagent.backends.pool import Opening, Turn, turn
from stepagent.backends.store import ResponseStore
from stepagent.config.settings import Config
from stepagent.errors import BackendError, ConfigError, StepagentError, first_cause
from stepagent.interfaces import SearchStrategy
from stepagent.tree import StepTree
from stepagent.types import Completions, ModelVersion, Problem, Usage

try:
    import ray
    from ray.exceptions import RayActorError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise ConfigError("--runner ray: Ray is not installed; pip install 'stepagent[ray]'") from None

_TRIES = 6
"""Of one problem on workers that die; those rest 1, 2, 4, ... seconds: slow starts are not blamed on it."""


class Ledger:
    """The run's response store and budget, for all workers."""

    def __init__(self, settings: dict[str, Any], folder: str) -> None:
        config = Config.model_validate(settings)
        self._store = ResponseStore(Path(folder) / "responses.sqlite")
        self._budget = Budget(config.budget, config.prices, self._store.spent())
        self._open: Counter[int] = Counter()

    async def started(self, worker: int) -> None:
        """Count the requests that an earlier process of this worker had in flight as ended: it has died."""
        for _ in range(self._open.pop(worker, 0)):
            await self._budget.end("", Usage())

    async def get(self, key: str, count: int) -> Completions | None:
        """See ResponseStore."""
        return await self._store.get(key, count)

    async def put(self, key: str, first: int, reply: Completions, *, model: str) -> None:
        """See ResponseStore."""
        await self._store.put(key, first, reply, model=model)

    async def begin(self, worker: int) -> None:
        """See Budget."""
        await self._budget.begin()
        self._open[worker] += 1

    async def end(self, worker: int, model: str, usage: Usage) -> None:
        """See Budget."""
        self._open[worker] -= 1
        await self._budget.end(model, usage)

    async def spent(self) -> dict[str, Usage]:
        """By model."""
        return self._budget.spent


class _RemoteStore:
    """The ledger's store, as a worker asks it."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    async def get(self, key: str, count: int) -> Completions | None:
        reply: Completions | None = await self._ledger.get.remote(key, count)
        return reply

    async def put(self, key: str, first: int, reply: Completions, *, model: str) -> None:
        try:
            await self._ledger.put.remote(key, first, reply, model=model)
        except RayTaskError as error:
            raise _cause(error) from None

    def close(self) -> None:
        """Return the ledger closes it."""


class _RemoteBudget(Budget):
    """The ledger's budget, as a worker asks it."""

    def __init__(self, ledger: Any, worker: int) -> None:
        super().__init__()
        self._ledger = ledger
        self._worker = worker

    async def begin(self) -> None:
        request = asyncio.ensure_future(self._begin())
        try:
            await asyncio.shield(request)
        except asyncio.CancelledError:
            request.add_done_callback(self._end_unused)
            raise

    async def _begin(self) -> None:
        try:
            await self._ledger.begin.remote(self._worker)
        except RayTaskError as error:
            raise _cause(error) from None

    def _end_unused(self, request: asyncio.Future[None]) -> None:
        if not request.cancelled() and request.exception() is None:
            self._ledger.end.remote(self._worker, "", Usage())

    async def end(self, model: str, usage: Usage) -> None:
        await self._ledger.end.remote(self._worker, model, usage)


class Worker:
    """Searches one problem a call, many calls at once."""

    def __init__(
        self, settings: dict[str, Any], model: ModelVersion, cwd: str, *, folder: str, ledger: Any, index: int
    ) -> None:
        if Path(cwd).is_dir():
            os.chdir(cwd)
        ray.get(ledger.started.remote(index))
        config = Config.model_validate(settings)
        store, budget = _RemoteStore(ledger), _RemoteBudget(ledger, index)
        self._strategy = Session(config, Path(folder), store=store, budget=budget).parts(model).strategy
        self._opening = Opening()

    async def search(self, place: int, problem: Problem, seed: int) -> StepTree:
        """Return the finished tree."""
        turn.set(Turn(place, opening=self._opening))
        return await self._strategy.search(problem, seed)

    async def last_are_open(self) -> None:
        """See Turn."""
        self._opening.over = True


class _Workers:
    """The workers as the driver sees them: how many trees each has open, and whether it just died."""

    def __init__(self, actors: list[Any]) -> None:
        self._actors = actors
        self._open = [0] * len(actors)
        self._rests_until = [0.0] * len(actors)

    async def search(self, place: int, problem: Problem, seed: int) -> StepTree:
        """On the worker with the fewest trees, one that lives if there is one."""
        reason = ""
        for attempt in range(_TRIES):
            moment = monotonic()
            index = min(range(len(self._actors)), key=lambda i: (max(self._rests_until[i], moment), self._open[i]))
            await asyncio.sleep(max(0.0, self._rests_until[index] - moment))
            self._open[index] += 1
            try:
                tree: StepTree = await self._actors[index].search.remote(place, problem, seed)
                return tree
            except RayActorError as error:
                reason = str(error).partition("\n")[0]
                self._rests_until[index] = max(self._rests_until[index], monotonic() + 2**attempt)
            finally:
                self._open[index] -= 1
        raise BackendError(f"{_TRIES} times a worker died with problem '{problem.id}' open, the last: {reason}")

    def last_are_open(self) -> None:
        """See Turn."""
        for actor in self._actors:
            actor.last_are_open.remote()


def ray_runner(session: Session, model: ModelVersion, workers: int) -> Runner:
    """Return a runner on `workers` actors. Connects to the cluster of $RAY_ADDRESS, or starts Ray on this machine."""
    config, budget = session.config, session.resources.budget
    source = config.problems.model_copy(update={"path": str(Path(config.problems.path).resolve())})
    settings = config.model_copy(update={"problems": source, "evaluate": None}).model_dump(mode="json")
    folder = session.folder.resolve()

    async def search_on_ray(
        strategy: SearchStrategy,  # each worker makes its own
        problems: Iterable[tuple[int, Problem]],
        seed: int,
        *,
        concurrency: int,
        finished: Callable[[int, StepTree], None],
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            beside = ray.remote(Ledger).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=this_node)
            ledger: Any = beside.remote(settings, str(folder))
            actor_class = ray.remote(Worker).options(max_restarts=-1, max_concurrency=concurrency)
            cwd = os.getcwd()
            actors = [
                actor_class.remote(settings, model, cwd, folder=str(folder), ledger=ledger, index=index)
                for index in range(workers)
            ]
            pool = _Workers(actors)
            stream = iter(problems)

            async def work() -> None:
                for place, problem in stream:
                    tree = await pool.search(place, problem, seed)
                    budget.spent = await ledger.spent.remote()
                    finished(place, tree)
                pool.last_are_open()

            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except* RayTaskError as errors:
            raise _cause(first_cause(errors)) from None
        finally:
            ray.shutdown()

    return search_on_ray


def _cause(error: BaseException) -> BaseException:
    """Return the error that a worker raised: a sentence, if it is one of ours."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, StepagentError) else error
