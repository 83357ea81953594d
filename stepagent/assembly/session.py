"""One session for each command: the run's folder, event loop, response store and budget, and the parts for a model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from copy import copy
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from stepagent.assembly.binding import Bound
from stepagent.assembly.components import BACKEND, GRADER, SCORER, Binder, BoundSearch, Parts
from stepagent.backends.budget import Budget, Budgeted
from stepagent.backends.store import ResponseStore, Store, Stored
from stepagent.config.settings import Config
from stepagent.config.yaml_text import write_yaml
from stepagent.console import console
from stepagent.errors import ConfigError
from stepagent.files.jsonl import write_atomic
from stepagent.files.problems import Answers
from stepagent.files.runs import RunFolder
from stepagent.graders import GUARDED
from stepagent.graders.guarded import Guarded
from stepagent.interfaces import Backend, Grader, Judge, Named, SearchStrategy
from stepagent.strategies.runner import search_all
from stepagent.tree import StepTree
from stepagent.types import ModelVersion, Problem

T = TypeVar("T")


class Served(Protocol):
    """The server that a run puts its models on."""

    def connection(self, model: ModelVersion) -> Mapping[str, object]:
        """Put `model` on the server, proven, and return the arguments with which a backend asks it."""
        ...

    def rest(self) -> None:
        """Make room for training on a device that the server shares."""
        ...


class Resources:
    """The event loop, the response store and the budget of one command. The store, `folder`/responses.sqlite, is
    made when a backend says which weights are behind it: replies that cannot be told apart are not replayed."""

    def __init__(self, config: Config, folder: Path, store: Store | None, *, budget: Budget | None) -> None:
        self._path = folder / "responses.sqlite"
        self._store = store
        self._runner = asyncio.Runner()
        self._stored: list[Stored] = []
        self._announced: set[str] = set()
        spent = None
        if store is None and self._path.exists():
            self._store = earlier = ResponseStore(self._path)
            spent = earlier.spent()
        self.budget = budget or Budget(config.budget, config.prices, spent)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end, in the one loop that connections and locks live in."""
        return self._runner.run(work)

    def wrap(self, backend: Backend, name: str) -> Backend:
        """Put `backend` within the budget, behind the store."""
        priced = backend.model if isinstance(backend, Named) and backend.model else name
        counted = Budgeted(backend, self.budget, priced)
        if counted.version is None:
            return counted
        if self._store is None:
            self._store = ResponseStore(self._path)
        stored = Stored(counted, self._store, counted.version)
        self._stored.append(stored)
        return stored

    @property
    def asks_endpoints(self) -> bool:
        """Whether a backend asks a server."""
        return bool(self._stored)

    def announce(self, backend: str) -> None:
        """Print a backend that is about to be made, once: a run makes that of M_i for each of its stages."""
        if backend not in self._announced:
            self._announced.add(backend)
            console.print(backend, style="dim", highlight=False)

    def replayed(self) -> int:
        """Return the number of requests that the store has answered so far."""
        return sum(stored.replayed for stored in self._stored)

    def close(self) -> None:
        """Close connections, loop and store."""
        for stored in self._stored:
            self.run(stored.close())
        self._runner.close()
        if self._store:
            self._store.close()


class Runner(Protocol):
    """Searches many problems at once, in this process (`search_all`) or on several machines."""

    def __call__(
        self,
        strategy: SearchStrategy,
        problems: Iterable[tuple[int, Problem]],
        seed: int,
        *,
        concurrency: int,
        finished: Callable[[int, StepTree], None],
    ) -> Coroutine[Any, Any, None]:
        """Search the problems, each given with its place, and hand each tree to `finished` as it ends."""
        ...


class Session:
    """Work on one config in one folder. Components are bound, and so checked, before any is made.

    `serves` says that the run has a server of its own; `served` is that server once it stands. `runner` searches: in
    this process, unless it is set to another one.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        serves: bool = False,
        store: Store | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.run_folder = RunFolder(folder)
        self.binder = Binder(config, serves)
        self.served: Served | None = None
        self.runner: Runner = search_all
        self.resources = Resources(config, folder, store, budget=budget)

    @cached_property
    def bound(self) -> BoundSearch:
        """The bound components of the config's search. Raises ConfigError."""
        return self.binder.search()

    @cached_property
    def grader(self) -> Grader:
        """The config's grader. Raises ConfigError."""
        grader: Grader = self._make(self.binder.grader(), {})
        return grader

    def keep_config(self) -> None:
        """Write the settings as they were resolved to config.yaml in the session's folder."""
        write_atomic(self.folder / "config.yaml", write_yaml(self.config.model_dump(mode="json")))

    def using(self, config: Config, roles: Mapping[str, str] | None = None) -> Session:
        """Return a session on another config in the same folder, with the same loop, store and budget; it need not be
        closed. `roles`: see Binder."""
        session = copy(self)
        session.config = config
        session.binder = Binder(config, self.binder.serves, roles or {})
        for name in ("bound", "grader"):  # they belong to the other config
            session.__dict__.pop(name, None)
        return session

    def stage_name(self, stage: str, out: Path) -> str:
        """Return the manifest's name of a stage whose results lie in `out`, such as "search" or "round_1: search"."""
        place = out.relative_to(self.folder).as_posix() if out.is_relative_to(self.folder) else str(out)
        return stage if place == "." else f"{place}: {stage}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end. See Resources."""
        return self.resources.run(work)

    def parts(self, model: ModelVersion) -> Parts:
        """Everything that a search needs, on `model`. Raises ConfigError or ModelError."""
        objects = self._objects(model)
        objects["backend"] = backend = self._make(self.bound.backend, objects)
        objects["generator"] = generator = self._make(self.bound.generator, objects)
        objects["judge"] = judge = self._make(self.bound.judge, objects)
        return Parts(backend, generator, judge, self._make(self.bound.strategy, objects))

    def backend(self, model: ModelVersion) -> Backend:
        """Return the config's backend alone, on `model`. Raises ConfigError or ModelError."""
        backend: Backend = self._make(self.binder.backend(), self._objects(model))
        return backend

    def judge_backend(self, model: ModelVersion) -> Backend:
        """Return the backend that the config's judge asks: its part, or the config's on `model`. Raises ConfigError or
        ModelError."""
        part = self.bound.judge.parts.get("backend")
        if not isinstance(part, Bound) or part.type is not BACKEND:
            return self.backend(model)
        backend: Backend = self._make(part, self._objects(model))
        return backend

    def judge(self, judge: Bound, model: ModelVersion, backend: Backend | None) -> Judge:
        """Another judge than the config's. Unless it has a backend of its part it asks `backend`, or the config's on
        `model` if there is none yet. Raises ConfigError or ModelError."""
        objects = self._objects(model)
        if judge.takes("backend"):
            objects["backend"] = backend or self.backend(model)
        other_judge: Judge = self._make(judge, objects)
        return other_judge

    def strategy(self, strategy: Bound, parts: Parts) -> SearchStrategy:
        """Another strategy over the generator and the judge that are there."""
        other_strategy: SearchStrategy = strategy.make(generator=parts.generator, judge=parts.judge, grader=self.grader)
        return other_strategy

    def _objects(self, model: ModelVersion) -> dict[str, object]:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "WORLD_SIZE: only init and optimize run in several processes; start this command without torchrun"
            )
        sources = [self.config.problems, *([self.config.evaluate.problems] if self.config.evaluate else [])]
        objects: dict[str, object] = {"model": model.path, "answers": Answers(sources, self.folder)}
        objects["grader"] = self.grader
        return {**objects, **self.served.connection(model)} if self.served else objects

    def _make(self, bound: Bound, objects: Mapping[str, object]) -> Any:
        """Make a component, its parts first. A backend is announced, since it may take long to load, and wrapped; a
        grader that may do whatever it likes runs in a process of its own."""
        parts = {
            name: [self._make(member, objects) for member in part]
            if isinstance(part, tuple)
            else self._make(part, objects)
            for name, part in bound.parts.items()
        }
        if bound.type is GRADER and (bound.kind in GUARDED or bound.kind not in GRADER.builtins):
            return Guarded(GRADER.builtins.get(bound.kind, bound.kind), bound.arguments)
        if bound.type not in (BACKEND, SCORER):
            return bound.make(**{**objects, **parts})
        model = str(bound.arguments.get("model", objects["model"]))
        self.resources.announce(f"{bound.role}: {bound.kind}, {model}")
        component = bound.make(**{**objects, **parts})
        return self.resources.wrap(component, model) if bound.type is BACKEND else component

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resources.close()
        self.run_folder.leave()
