"""A server without a model on 127.0.0.1 that speaks vLLM's and OpenAI's protocol. Standard library only.

    with serve(Stub(lambda context, seed: "so 1+1=2")) as url:
        backend = openai_backend(url, "m")

Its text is a function of context and seed, its tokens are UTF-8 bytes, and it misbehaves on order. `serve` runs it in
a thread, so that a test can look into it; `serve_apart` in a process of its own, so that it takes no time of a client
that is measured.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NamedTuple

END = 256
"""The token that ends a turn."""
_PROBE = "Is 7 < 11?"  # the question of stepagent.backends.probe


class Fault(NamedTuple):
    """A wrong reply to a request for completions: after `seconds` the bytes `wire` instead of a reply, or nothing
    and a dropped connection; or a right reply with `surplus` choices too many."""

    wire: bytes = b""
    seconds: float = 0.0
    surplus: int = 0


def packet(code: int, content: object, headers: Mapping[str, str] | None = None) -> bytes:
    """Return an HTTP reply with `content` as JSON; bytes are sent as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"HTTP/1.1 {code} {HTTPStatus(code).phrase}", *(f"{name}: {text}" for name, text in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status(code: int, retry_after: str | None = None, message: str = "no") -> Fault:
    """Return the fault of an error status, with a Retry-After header if one is named."""
    headers = None if retry_after is None else {"Retry-After": retry_after}
    return Fault(packet(code, {"error": {"message": message}}, headers))


def stall(seconds: float) -> Fault:
    """Return the fault of a server that drops the connection after a long silence."""
    return Fault(seconds=seconds)


drop = Fault()
half_json = Fault(packet(200, b'{"choices"'))
empty_choices = Fault(packet(200, {"choices": []}))
wrong_n = Fault(surplus=1)


@dataclass
class Stub:
    """The server: its text, its abilities, its faults, the time it takes, and counts of its work.

    say                (context, seed of the sample) -> a reply to its end; stop strings and limits cut it
    tokenises          token ids in and out, as with vLLM; else only chats
    continues          goes on with a half-written last turn; else the wish is ignored
    refuses            parameters whose requests get status 400
    finish             finish reason of all choices, in place of the true one
    faults             wrong replies to the next requests, in order; then a share `rate` of them draws from `kinds`
    per_second         requests a second that are answered; `refused` counts the others, which get status 429
    slots              replies it works on at once, each for `seconds_per_token` times the tokens of its longest
                       choice; with `slot_per_choice` every choice takes a slot, as a sequence of a real server does
    requests           bodies of the answered requests for completions, without those of a client's probe
    work               seconds that all slots have worked; GET /v1/work shows it
    """

    say: Callable[[str, int], str]
    tokenises: bool = True
    continues: bool = False
    refuses: Sequence[str] = ()
    model: str = "m"
    window: int = 4096
    headers: Mapping[str, str] = field(default_factory=dict)
    finish: str | None = None
    faults: list[Fault] = field(default_factory=list)
    rate: float = 0.0
    kinds: Sequence[Fault] = ()
    per_second: int | None = None
    slots: int = 10**6
    seconds_per_token: float = 0.0
    slot_per_choice: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list, init=False)
    refused: int = field(default=0, init=False)
    work: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._draws = 0
        self._moments: list[float] = []
        self._random = random.Random(0)

    async def listen(self) -> tuple[asyncio.Server, int]:
        """Return the listening server, and its port."""
        self._slots = asyncio.Semaphore(self.slots)
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 24, backlog=1024)
        return server, server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client may be killed at any moment, and the end of the server cancels its connections.
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = json.loads(await reader.readexactly(int(length[1]))) if length else {}
                wire = await self._answer(head.split(b" ", 2)[1].decode(), body)
                if not wire:
                    break
                writer.write(wire)
                await writer.drain()
        writer.close()

    async def _answer(self, path: str, body: dict[str, Any]) -> bytes:
        completes = path.endswith("completions")
        fault = self._fault() if completes else None
        if fault and not fault.surplus:
            await asyncio.sleep(fault.seconds)
            return fault.wire
        if refused := body.keys() & set(self.refuses):
            return status(400, message=f"unsupported: {refused}").wire
        reply = await self._completions(path, body) if completes else self._lookup(path, body)
        if reply is None:
            return status(404).wire
        if fault:
            reply["choices"] += reply["choices"][:1] * fault.surplus
        return packet(200, reply, self.headers)

    def _fault(self) -> Fault | None:
        if self.faults:
            return self.faults.pop(0)
        if self.per_second is not None:
            clock = time.monotonic()
            self._moments = [moment for moment in self._moments if clock - moment < 1]
            if len(self._moments) >= self.per_second:
                self.refused += 1
                return status(429)
            self._moments.append(clock)
        return self._random.choice(self.kinds) if self._random.random() < self.rate else None

    def _lookup(self, path: str, body: dict[str, Any]) -> Any:
        """Return the reply to a request that samples nothing; None where there is no such path."""
        if path == "/tokenize" and self.tokenises:
            tokens = list((body.get("prompt") or self._context(body)).encode())
            return {"tokens": tokens, "max_model_len": self.window, "count": len(tokens)}
        if path == "/detokenize" and self.tokenises:
            return {"prompt": _text(body["tokens"])}
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": self.model, "object": "model"}]}
        return self.work if path == "/v1/work" else None

    async def _completions(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if path not in ("/v1/completions", "/v1/chat/completions"):
            return None
        context = self._context(body)
        self._draws += 1
        seed = body.get("seed")
        first = self._draws if seed is None else int(seed)  # without a seed every request draws anew
        choices = [self._choice(index, context, first + index, body=body) for index in range(body.get("n") or 1)]
        tokens = [len(choice["token_ids"]) for choice in choices]
        services = [self.seconds_per_token * count for count in tokens]
        async with asyncio.TaskGroup() as group:
            for seconds in services if self.slot_per_choice else [max(services)]:
                group.create_task(self._occupy(seconds))
        if _PROBE not in context:
            self.requests.append(body)
        ids, sampled = list(context.encode()), sum(tokens)
        return {
            "id": "stub",
            "object": "chat.completion" if "messages" in body else "text_completion",
            "created": 0,
            "model": self.model,
            "choices": choices,
            "usage": {
                "prompt_tokens": len(ids),
                "completion_tokens": sampled,
                "total_tokens": len(ids) + sampled,
            },
            "service_seconds": max(services),
            **({"prompt_token_ids": ids} if self.tokenises else {}),
        }

    async def _occupy(self, seconds: float) -> None:
        async with self._slots:
            await asyncio.sleep(seconds)
        self.work += seconds

    def _context(self, body: dict[str, Any]) -> str:
        if "messages" not in body:
            return _text(body["prompt"])
        turns = "".join(f"<{turn['role']}>{turn['content']}" for turn in body["messages"])
        return turns if self.continues and body.get("continue_final_message") else turns + "<assistant>"

    def _choice(self, index: int, context: str, seed: int, *, body: dict[str, Any]) -> dict[str, Any]:
        text, reason, stop_reason = self.say(context, seed), "stop", None
        stops = body.get("stop") or ()
        for stop in [stops] if isinstance(stops, str) else stops:
            if stop in text:
                text, stop_reason = text[: text.index(stop) + len(stop)], stop
        ids = list(text.encode()) + ([] if stop_reason else [END])
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or self.window
        if len(ids) > limit:
            ids, reason, stop_reason = ids[:limit], "length", None
            text = _text(ids)
        if stop_reason and not body.get("include_stop_str_in_output"):
            text = text.removesuffix(stop_reason)
        choice = {
            "index": index,
            "finish_reason": self.finish or reason,
            "token_ids": ids,
            **({"stop_reason": stop_reason} if self.tokenises or self.continues else {}),
        }
        if "messages" in body:
            # Reasoning models send their thoughts beside the reply; a client has to leave them out.
            message = {"role": "assistant", "content": text, "reasoning_content": "hm", "reasoning": "hm"}
            content = [{"token": chr(token), "logprob": -0.5} for token in ids]
            return {**choice, "message": message, "logprobs": {"content": content}}
        logprobs = {"token_logprobs": [-0.5] * len(ids), "tokens": [chr(token) for token in ids]}
        return {**choice, "text": text, "logprobs": logprobs}


def _text(tokens: Sequence[int]) -> str:
    return bytes(token for token in tokens if token < END).decode(errors="ignore")


@contextmanager
def serve(stub: Stub) -> Iterator[str]:
    """Run the stub in a thread as long as the block runs, and yield its base URL."""
    ready: SimpleQueue[tuple[int, Callable[[], object]]] = SimpleQueue()

    async def run() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        server, port = await stub.listen()
        ready.put((port, lambda: loop.call_soon_threadsafe(over.set)))
        await over.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    port, stop = ready.get()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        stop()
        thread.join()


@contextmanager
def serve_apart(stub: Stub) -> Iterator[str]:
    """Run a copy of the stub in a process of its own as long as the block runs, and yield its base URL. Its `say`
    must be picklable: a function of a module, or an instance of a class of a module."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the client's threads in the middle of their work
    near, far = context.Pipe(duplex=False)
    process = context.Process(target=_run_apart, args=(stub, far), daemon=True)
    process.start()
    far.close()
    try:
        yield f"http://127.0.0.1:{near.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def _run_apart(stub: Stub, parent: Connection) -> None:
    async def run() -> None:
        server, port = await stub.listen()
        parent.send(port)
        await server.serve_forever()

    asyncio.run(run())
