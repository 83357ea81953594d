"""Revive a server: start it again after it died, or give it its model again after others restarted it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from stepagent.config.settings import ServeSettings
from stepagent.errors import ServeError
from stepagent.serve.client import VllmClient
from stepagent.serve.deployment import Deployment
from stepagent.serve.folders import local_folder
from stepagent.serve.process import Process
from stepagent.serve.proof import Proof

_RESTARTS = 5  # of a server that keeps dying, before the run gives up
_CHECK_SECONDS = 2.0  # for which a look at the server holds


class Revivable(Protocol):
    """A server that can be started, or given its model again."""

    settings: ServeSettings
    managed: bool
    base_url: str
    client: VllmClient
    process: Process

    @property
    def current(self) -> Deployment | None:
        """The deployment that was proven last."""
        ...

    def up(self) -> bool:
        """Return whether the server can be asked now."""
        ...

    def start(self, model: str, name: str | None = None) -> None:
        """Start the managed process with `model`."""
        ...

    def prove_again(self, deployment: Deployment) -> Proof:
        """Prove that the server serves a deployment. Raises ServeError."""
        ...


class Revival:
    """The revival of `server`, for all the threads that notice that it does not answer."""

    def __init__(self, server: Revivable, tell: Callable[[str], None]) -> None:
        self._server = server
        self._tell = tell
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._failure: ServeError | None = None
        self._restarts = 0
        self._in_progress = False
        self._process_start: float | None = None
        self._last_check = 0.0

    @property
    def in_progress(self) -> bool:
        """Whether a managed server is being started again: its process is alive, but cannot be asked yet."""
        return self._in_progress

    def close(self) -> None:
        """Revive the server no more, also from a thread that is waiting to."""
        self._closed.set()

    def note_proof(self) -> None:
        """Remember that the server was proven, until its process is another one."""
        self._process_start = self._server.client.born()

    def revive(self) -> None:
        """Bring the server back with the current deployment, if it is down or serves other weights. Raises
        ServeError; a revival that failed once is not tried again."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                self._revive()
            except ServeError as failure:
                self._failure = failure
                raise

    def _revive(self) -> None:
        server = self._server
        current = server.current
        # Hundreds of requests fail at the same moment and queue here: the first of them looks, and for two
        # seconds the others take its word. A managed server that is known to be down is no such case.
        is_up = not server.managed or (server.process.alive() and not self._in_progress)
        if current is None or (is_up and time.monotonic() - self._last_check < _CHECK_SECONDS):
            return
        self._last_check = time.monotonic()
        if server.managed:
            if not self._in_progress and server.up():
                return
            # This thread may have waited for the lock while the run ended and stopped the process.
            if self._closed.is_set():
                raise ServeError("the run is over; its server is not started again")
            self._restarts += 1
            if self._restarts > _RESTARTS:
                raise ServeError(f"the server died {self._restarts} times; see {server.process.log}")
            self._tell(f"the server died; it is started again with {current.version.path}")
            self._in_progress = True
            server.start(current.version.path, current.name)
            server.prove_again(current)
            self._in_progress = False
            # Starting took minutes: for the threads that queued meanwhile, the look is as of now.
            self._last_check = time.monotonic()
            return
        # An external server is not ours to start: whoever runs it has as long as a start may take.
        deadline = time.monotonic() + server.settings.start_seconds
        while not server.client.healthy():
            if time.monotonic() > deadline or self._closed.is_set():
                raise ServeError(f"{server.base_url} does not answer any more; start it again")
            self._tell(f"waiting for {server.base_url}")
            time.sleep(1)
        self._last_check = time.monotonic()
        # A process that was started anew may serve the weights it was first started with.
        if server.client.born() != self._process_start:
            self._tell(f"the server was restarted; it is given {current.version.path}")
            self._restore(current)

    def _restore(self, current: Deployment) -> None:
        """Put the deployment on an external server again, unless it is there. Raises ServeError."""
        server = self._server
        try:
            server.prove_again(current)
        except ServeError:
            if current.method == "adapter":
                server.client.load_adapter(current.name, Path(current.version.path) / "adapter")
            else:
                server.client.reload(local_folder(current.version.path))
            server.prove_again(current)
        self.note_proof()
