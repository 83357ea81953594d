"""Several endpoints of one model behind one backend, and the bound on the requests that each has in
flight."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from time import monotonic

from stepagent.backends.wrapper import Wrapper
from stepagent.errors import TransientError
from stepagent.interfaces import Backend
from stepagent.types import Completions, Prompt, Sampling


@dataclass(slots=True)
class Opening:
    """Whether a search still has problems to open."""

    over: bool = False


@dataclass(slots=True)
class Turn:
    """Whose request it is: the problem's place among all, and how often its tree has asked so far."""

    place: int = 0
    asked: int = 0
    opening: Opening = field(default_factory=Opening)

    def key(self) -> tuple[int, int, int]:
        """The lowest goes first when all endpoints are full. While there are problems to open, old ones go
        first: they end, and new ones take their places. When the last are open, those that are furthest
        behind go first, so that all end together and no server waits for a single long tree."""
        return (1, self.asked, self.place) if self.opening.over else (0, self.place, self.asked)


turn: ContextVar[Turn] = ContextVar("turn")
_NOBODY = Turn()


def asks() -> None:
    """Count that the tree at hand goes on asking."""
    if whose := turn.get(None):
        whose.asked += 1


_FIRST_REST, _LONGEST_REST = 1.0, 60.0  # seconds


class _Lane:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.in_flight = 0
        self.failures = 0
        self.rests_until = 0.0

    def rest(self) -> None:
        """Leave it alone for a while; requests that fail together are one failure."""
        if self.rests_until <= (now := monotonic()):
            self.rests_until = now + min(_FIRST_REST * 2 ** min(self.failures, 10), _LONGEST_REST)
            self.failures += 1


class Pool(Wrapper):
    """Every request goes to the endpoint with the fewest in flight, `max_in_flight` at most; then it waits.

    Of several endpoints, one that fails (429 aside: that is its limit) is left alone for a second, twice as
    long each further time, a minute at most; then one request tries it. The request itself is left to the
    retry layer around the pool, and so goes to another.
    """

    def __init__(self, backends: Sequence[Backend], max_in_flight: int) -> None:
        super().__init__(backends[0])
        self._lanes = [_Lane(backend) for backend in backends]
        self._bound = max_in_flight
        self._waiting: list[tuple[tuple[int, int, int], int, asyncio.Future[_Lane]]] = []
        self._arrivals = count()

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        lane = await self._enter()
        try:
            reply = await lane.backend.complete(prompt, sampling)
            lane.failures = 0
            return reply
        except TransientError as error:
            if not error.rate_limited and len(self._lanes) > 1:
                lane.rest()
            raise
        finally:
            self._leave(lane)

    async def close(self) -> None:
        """Close what the endpoints keep open."""
        for lane in self._lanes:
            await Wrapper(lane.backend).close()

    async def prefix_cache(self) -> tuple[float, float] | None:
        """See Wrapper: the sum over the endpoints."""
        counts = [await Wrapper(lane.backend).prefix_cache() for lane in self._lanes]
        known = [it for it in counts if it is not None]
        return (sum(hits for hits, _ in known), sum(asked for _, asked in known)) if known else None

    async def _enter(self) -> _Lane:
        lane = self._free()
        if lane is None or self._waiting:
            place: asyncio.Future[_Lane] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (turn.get(_NOBODY).key(), next(self._arrivals), place))
            try:
                return await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._leave(place.result())
                raise
        lane.in_flight += 1
        return lane

    def _leave(self, lane: _Lane) -> None:
        lane.in_flight -= 1
        while self._waiting and (free := self._free()) is not None:
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():
                free.in_flight += 1
                place.set_result(free)

    def _free(self) -> _Lane | None:
        now = monotonic()
        awake = [lane for lane in self._lanes if lane.rests_until <= now]
        if not awake:  # all have failed: the retry layer's patience decides, not this one's
            awake = [min(self._lanes, key=lambda lane: lane.rests_until)]
        open_lanes = [lane for lane in awake if lane.in_flight < (1 if lane.failures else self._bound)]
        return min(open_lanes, key=lambda lane: lane.in_flight, default=None)
