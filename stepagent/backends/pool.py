"""Several endpoints of one model behind one backend, each with a bound on its requests in flight."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count, zip_longest
from math import inf
from time import monotonic

from stepagent.backends.retry import Ready
from stepagent.backends.wrapper import Wrapper
from stepagent.errors import ConfigError, ServeError, TransientError
from stepagent.interfaces import Backend
from stepagent.types import Completions, Prompt, Sampling


@dataclass(slots=True)
class Opening:
    """State of a search: `over` once it has no more problems to open."""

    over: bool = False


@dataclass(slots=True)
class Turn:
    """Priority of a request: its problem's place among all problems, and the requests of its tree so far."""

    place: int = 0
    requests: int = 0
    opening: Opening = field(default_factory=Opening)

    def key(self) -> tuple[int, int, int]:
        """Return the sort key of a request that waits; the lowest goes first.

        While there are problems to open, those opened first go first: they end, and new ones take their
        places. Once the last is open, trees with the fewest requests go first, so that all end together and
        no server waits for a single long tree.
        """
        return (1, self.requests, self.place) if self.opening.over else (0, self.place, self.requests)


turn: ContextVar[Turn] = ContextVar("turn")
"""Turn of the tree that the current task searches."""
_OUTSIDE_SEARCH = Turn()


def asks() -> None:
    """Count one more request of the tree that the current task searches."""
    if current_turn := turn.get(None):
        current_turn.requests += 1


_log = logging.getLogger("stepagent")
_FIRST_REST, _LONGEST_REST = 1.0, 60.0  # seconds


_BUSY = (429, 503, 529)  # statuses of a server that takes no more requests at the moment
_GROWTH = 0.1  # share of the room that comes back while as many requests succeed as there is room for, at least 1


class _Lane:
    """One endpoint, its requests in flight, the room for them (at most `bound`), and its failures in a row. `ready`
    returns once it can be asked after a failure."""

    def __init__(self, backend: Backend, bound: int, ready: Ready | None) -> None:
        self.backend = backend
        self.ready = ready
        self.in_flight = 0
        self.room = float(bound)
        self._bound = bound
        self._proven = True  # a request has succeeded since the room was halved
        self.failures = 0
        self.rests_until = 0.0
        self.refuses = False

    def succeed(self) -> None:
        """Take note of a success: the endpoint can take more."""
        self.failures = 0
        self._proven = True
        self.room = min(self._bound, self.room + max(1.0, _GROWTH * self.room) / self.room)

    def narrow(self) -> None:
        """Halve the room, once until a request succeeds: an endpoint that refuses all says nothing of their number."""
        if self._proven:
            self.room = max(1.0, self.room / 2)
            self._proven = False

    def refuse(self) -> bool:
        """Send no request here any more. Returns whether that is new."""
        was_open, self.refuses = not self.refuses, True
        self.rests_until = inf
        return was_open

    def rest(self) -> None:
        """Send no request here for a while; requests that fail together count as one failure."""
        if self.rests_until <= (time_now := monotonic()):
            self.rests_until = time_now + min(_FIRST_REST * 2 ** min(self.failures, 10), _LONGEST_REST)
            self.failures += 1


class Pool(Wrapper):
    """Wrapper that sends each request to the endpoint with the fewest in flight; where all have
    `max_in_flight`, it waits. An endpoint that is busy (429, 503, 529) gets half as many, and a tenth more again, at
    least one, for as many successes as it has requests in flight.

    Of several endpoints, one that fails (except with a 429, which tells its limit) rests for a second, twice
    as long after each further failure, at most a minute; then a single request tries it. The request that
    failed is left to the retry layer around the pool, which sends it to another endpoint. One that refuses the
    key or the model is left out, and said so; once all refuse, the error is raised. `ready` holds, for each endpoint,
    the thing to wait for before it is tried again: a server that comes back may serve its first weights.
    """

    def __init__(self, backends: Sequence[Backend], max_in_flight: int, ready: Sequence[Ready] = ()) -> None:
        super().__init__(backends[0])
        self._lanes = [_Lane(backend, max_in_flight, revival) for backend, revival in zip_longest(backends, ready)]
        self._waiting: list[tuple[tuple[int, int, int], int, asyncio.Future[_Lane]]] = []
        self._arrivals = count()

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        lane = await self._enter()
        try:
            if lane.failures and lane.ready:
                await lane.ready(True)
            reply = await lane.backend.complete(prompt, sampling)
            lane.succeed()
            return reply
        except ServeError as error:
            lane.rest()
            raise TransientError(str(error)) from None
        except TransientError as error:
            if error.rate_limited or error.status in _BUSY:
                lane.narrow()
            if not error.rate_limited and len(self._lanes) > 1:
                lane.rest()
            raise
        except ConfigError as error:
            is_new = lane.refuse()
            if all(other_lane.refuses for other_lane in self._lanes):
                raise
            if is_new:
                _log.warning("one of several endpoints is left out: %s", error)
            raise TransientError(str(error)) from None
        finally:
            self._leave(lane)

    async def close(self) -> None:
        """Close the connections of all endpoints."""
        for lane in self._lanes:
            await Wrapper(lane.backend).close()

    async def prefix_cache(self) -> tuple[float, float] | None:
        """See Wrapper: the sum over the endpoints."""
        counts = [await Wrapper(lane.backend).prefix_cache() for lane in self._lanes]
        pairs = [pair for pair in counts if pair is not None]
        return (sum(hits for hits, _ in pairs), sum(queries for _, queries in pairs)) if pairs else None

    async def _enter(self) -> _Lane:
        """Return an endpoint with room, counted as used by one request more; wait until there is one."""
        lane = self._free()
        # With others waiting, a free endpoint is for the first of them, not for the newest request.
        if lane is None or self._waiting:
            slot: asyncio.Future[_Lane] = asyncio.get_running_loop().create_future()
            # The number of arrival breaks ties, because futures cannot be compared.
            heapq.heappush(self._waiting, (turn.get(_OUTSIDE_SEARCH).key(), next(self._arrivals), slot))
            try:
                return await slot
            except asyncio.CancelledError:
                # `_leave` may have handed over an endpoint just before: it must not stay counted as used.
                if slot.done() and not slot.cancelled():
                    self._leave(slot.result())
                raise
        lane.in_flight += 1
        return lane

    def _leave(self, lane: _Lane) -> None:
        """Count a request of `lane` as ended, and let waiting requests in."""
        lane.in_flight -= 1
        # A loop, because more than one slot may be free: an endpoint whose rest is over frees many at once.
        while self._waiting and (free_lane := self._free()) is not None:
            _, _, slot = heapq.heappop(self._waiting)
            # A cancelled request stays in the heap until it is popped here.
            if not slot.done():
                # Counted here and not by the waiter, which runs later: the next `_free` must see it.
                free_lane.in_flight += 1
                slot.set_result(free_lane)

    def _free(self) -> _Lane | None:
        """Return the endpoint with room that has the fewest requests in flight; None if all are full."""
        time_now = monotonic()
        available = [lane for lane in self._lanes if lane.rests_until <= time_now]
        # If all rest, waiting here would hide the failure from the retry layer, which decides on giving up.
        if not available:
            available = [min(self._lanes, key=lambda lane: lane.rests_until)]
        # An endpoint that failed last gets one request as a trial before it gets a full share.
        open_lanes = [lane for lane in available if lane.in_flight < (1 if lane.failures else int(lane.room))]
        return min(open_lanes, key=lambda lane: lane.in_flight, default=None)
