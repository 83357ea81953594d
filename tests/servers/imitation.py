"""A server on 127.0.0.1 that answers as an OpenAI-compatible one should, and a twist that makes it answer as one does.

A twist gets each request with its right reply, and returns the reply to send instead.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from queue import SimpleQueue
from typing import Any

from protocols import Protocol, hosted


@dataclass(frozen=True)
class Request:
    """A request: its body as data, the seconds since the server began, its number among those for completions, how
    many are open with it, and the time of the day when it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    moment: float = 0.0
    number: int = 0
    open: int = 1
    unix: float = 0.0

    @property
    def text(self) -> str:
        """The text of all its turns."""
        return "".join(str(turn["content"]) for turn in self.body.get("messages", ())) or str(self.body.get("prompt"))

    @property
    def samples(self) -> bool:
        """Whether it asks for completions."""
        return self.path.partition("?")[0].endswith("completions")

    @property
    def item(self) -> int | None:
        """The number of the problem that it is about; None for those of a probe."""
        match = re.search(r"\(item (\d+)\)", self.text)
        return int(match[1]) if match else None

    @property
    def judges(self) -> bool:
        """Whether it asks for a verdict."""
        return self.item is not None and any(tag in self.text for tag in ("<proposal", "<step>", "<proposals>"))

    @property
    def solves(self) -> bool:
        """Whether it asks for a step or a solution of a problem."""
        return self.samples and self.item is not None and not self.judges


@dataclass(frozen=True)
class Reply:
    """A reply: `body` is sent as JSON, or as it is if it is bytes; after `seconds`; `wire` are the bytes to send
    instead of all that, none of them for a dropped connection."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    wire: bytes | None = None

    def packet(self) -> bytes:
        """Return the bytes of the reply."""
        if self.wire is not None:
            return self.wire
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        fields = {"Content-Type": "application/json", "Content-Length": str(len(content)), **self.headers}
        known = self.status in HTTPStatus.__members__.values()
        phrase = HTTPStatus(self.status).phrase if known else "Unknown"
        head = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {text}" for name, text in fields.items() if text)]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + content


Twist = Callable[[Request, Reply], Reply]
_TLS = b"\x16"  # the first byte of a client that expects https


def plain(_: Request, reply: Reply) -> Reply:
    return reply


@dataclass
class Server:
    """The server. `base` is the path that its API lies under, `absence` the seconds between which its port is closed,
    `certificate` the file of the key and certificate of an https server. `log` holds each request with its status."""

    twist: Twist = plain
    protocol: Callable[[], Protocol] = hosted
    base: str = "/v1"
    absence: tuple[float, float] | None = None
    hasten: float = 1.0
    certificate: str | None = None
    log: list[tuple[Request, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._talk = self.protocol()
        self.port = 0
        self.open = 0
        self.begin()

    def begin(self) -> None:
        """Begin to count the seconds."""
        self._start, self._unix = time.monotonic(), time.time()

    @property
    def moment(self) -> float:
        """Seconds since the beginning, by the clock of the command."""
        return (time.monotonic() - self._start) * self.hasten

    @property
    def unix(self) -> float:
        """The time of the day, by the clock of the command."""
        return self._unix + self.moment

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}{self.base}"

    def asked(self, of: Callable[[Request], bool] = lambda request: request.samples) -> list[Request]:
        """Return the requests that were answered with 200."""
        return [request for request, status in self.log if status == 200 and of(request)]

    async def listen(self) -> asyncio.Server:
        """Return the listening server."""
        context = None
        if self.certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.certificate)
        server = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port, limit=1 << 24, ssl=context, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError, ssl.SSLError):
            while True:
                if (opening := await reader.readexactly(1)) == _TLS:
                    writer.write(Reply(b"plain HTTP is spoken here", 400).packet())
                    break
                head = (opening + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.rstrip().split("\r\n")
                method, path, _ = first.split(" ", 2)
                headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                wire = await self._answer(method, path, headers, json.loads(content) if content else {})
                if not wire:
                    break
                writer.write(wire)
                await writer.drain()
                if b"connection: close" in wire[:500].lower():
                    break
        writer.close()

    async def _answer(self, method: str, path: str, headers: Mapping[str, str], body: dict[str, Any]) -> bytes:
        number = sum(request.samples for request, _ in self.log)
        self.open += 1
        request = Request(method, path, headers, body, self.moment, number, self.open, self.unix)
        place = len(self.log)
        self.log.append((request, 0))
        try:
            status, content = self._talk.answer(method, path, self.base, body)
            reply = self.twist(request, Reply(content, status))
            self.log[place] = (request, reply.status if reply.wire is None else 0)
            await asyncio.sleep(reply.seconds / self.hasten)
        finally:
            self.open -= 1
        return reply.packet()

    async def stay(self, listening: asyncio.Server, over: asyncio.Event) -> None:
        """Go on listening until `over`, but not between the seconds of `absence`, when open connections drop."""
        start, end = self.absence or (math.inf, math.inf)
        twist = self.twist
        if self.absence is None:  # nothing to look after, and dozens of servers may run at once
            await over.wait()
        while not over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.005)
            is_away = start <= self.moment < end
            if is_away and listening.is_serving():
                listening.close()
                self.twist = lambda _, reply: replace(reply, wire=b"")
            elif not is_away and not listening.is_serving():
                self.twist = twist
                listening = await self.listen()
        listening.close()

    def heal(self) -> None:
        """Answer as a server should from here on."""
        self.twist = plain


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run the server in a thread as long as the block runs."""
    ready: SimpleQueue[Callable[[], object]] = SimpleQueue()

    async def run() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(lambda *_: None)  # clients are killed at any moment
        listening = await server.listen()
        ready.put(lambda: loop.call_soon_threadsafe(over.set))
        await server.stay(listening, over)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    stop = ready.get()
    try:
        yield server
    finally:
        stop()
        thread.join()
