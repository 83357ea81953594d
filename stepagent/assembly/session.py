"""What the stages of one command share: an event loop, the response store, the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from stepagent.backends.budget import Budget, Budgeted
from stepagent.backends.store import ResponseStore, Store, Stored
from stepagent.config.settings import Config
from stepagent.interfaces import Backend

T = TypeVar("T")


class Resources:
    """Those of the run in `folder`. The store, `folder`/responses.sqlite, is made when a backend says which
    weights are behind it: what cannot be told apart is not replayed."""

    def __init__(
        self, config: Config, folder: Path, store: Store | None = None, budget: Budget | None = None
    ) -> None:
        self.folder = folder
        self._path = folder / "responses.sqlite"
        self._store = store
        self._runner = asyncio.Runner()
        self._stored: list[Stored] = []
        spent = None
        if store is None and self._path.exists():
            self._store = kept = ResponseStore(self._path)
            spent = kept.spent()
        self.budget = budget or Budget(config.budget, config.prices, spent)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end, in the one loop that connections and locks live in."""
        return self._runner.run(work)

    def wrap(self, backend: Backend, name: str) -> Backend:
        """`backend` within the budget, behind the store."""
        counted = Budgeted(backend, self.budget, getattr(backend, "model", None) or name)
        if counted.version is None:
            return counted
        if self._store is None:
            self._store = ResponseStore(self._path)
        stored = Stored(counted, self._store, counted.version)
        self._stored.append(stored)
        return stored

    @property
    def asks_endpoints(self) -> bool:
        """Whether a backend asks others than this process."""
        return bool(self._stored)

    def replayed(self) -> int:
        """How many requests the store has answered so far."""
        return sum(stored.replayed for stored in self._stored)

    def __enter__(self) -> Resources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stored in self._stored:
            self.run(stored.close())
        self._runner.close()
        if self._store:
            self._store.close()
