"""A loopback endpoint for benchmarks: vLLM's token-id API, seeded lengths of steps and verdicts with
stragglers, a fixed number of slots, seconds per token. Its own process, so that it takes no time of the
client's."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

END = 256
_FILLER = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=20_000))
_STRAGGLERS, _LONGER = 0.05, 6.0  # this share of steps is so many times as long


class Stub:
    """Steps are lines of a number and words; after `depth` steps comes the end. A verdict prefers the step
    of the larger number. A reply takes its longest choice's tokens times `seconds_per_token` in one of
    `slots`; with `each_choice` every choice takes a slot of its own, as a sequence in a real server does.
    `work` is what all slots have worked, in seconds."""

    def __init__(
        self, slots: int, seconds_per_token: float, tokens: int, depth: int, each_choice: bool
    ) -> None:
        self.work = 0.0
        self._asked = 0
        self._each_choice = each_choice
        self._slots = asyncio.Semaphore(slots)
        self._seconds = seconds_per_token
        self._tokens = tokens
        self._depth = depth

    def _step(self, context: str, seed: int) -> str:
        rng = random.Random(f"{context}{seed}")
        said = f"{rng.randrange(10**6):06d} {self._words(rng)}"
        return f"{said}\n" if context.rpartition("<assistant>")[2].count("\n") + 1 < self._depth else said

    def _words(self, rng: random.Random) -> str:
        length = self._tokens * math.exp(rng.gauss(-0.125, 0.5))
        if rng.random() < _STRAGGLERS:
            length *= _LONGER
        start = rng.randrange(len(_FILLER) // 2)
        return _FILLER[start : start + max(1, int(length))]

    def _verdict(self, context: str) -> str:
        first, second = (context.rpartition(f"|{seat} ")[2][:6] for seat in "AB")
        return f"{self._words(random.Random(context))} [[{'A' if first > second else 'B'}]]"

    def _choice(self, context: str, asked: Mapping[str, Any], seed: int, index: int) -> dict[str, Any]:
        judging = "messages" in asked and len(asked["messages"]) == 1 and "|A " in context
        text = self._verdict(context) if judging else self._step(context, seed + index)
        stopped = "\n" if text.endswith("\n") else None
        ids = list(text.encode()) + ([] if stopped else [END])
        logprobs: dict[str, Any] = {"token_logprobs": [-0.5] * len(ids), "tokens": [chr(i) for i in ids]}
        if "messages" in asked:
            text = text.removesuffix("\n")
            logprobs = {"content": [{"token": chr(i), "logprob": -0.5} for i in ids]}
        return {
            "index": index,
            "text": text,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "stop_reason": stopped,
            "token_ids": ids,
            "logprobs": logprobs,
        }

    async def reply(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the endpoint answers."""
        if path == "/tokenize":
            turns = asked.get("messages") or []
            text = "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<assistant>"
            return {"tokens": list(text.encode()), "max_model_len": 10**6}
        if path == "/detokenize":
            return {"prompt": bytes(it for it in asked["tokens"] if it < END).decode()}
        if "messages" in asked:
            turns = [turn["content"] for turn in asked["messages"]]
            context = turns[0] if "|A " in turns[0] else "<assistant>".join([*turns, ""][:2])
        else:
            context = bytes(it for it in asked["prompt"] if it < END).decode()
        self._asked += 1
        seed = int(asked.get("seed") or self._asked)  # without a seed every request draws anew
        choices = [self._choice(context, asked, seed, index) for index in range(asked.get("n") or 1)]
        services = [self._seconds * len(choice["token_ids"]) for choice in choices]
        service = max(services)
        async with asyncio.TaskGroup() as group:
            for seconds in services if self._each_choice else [service]:
                group.create_task(self._serve(seconds))
        sampled = sum(len(choice["token_ids"]) for choice in choices)
        usage = {
            "prompt_tokens": len(context),
            "completion_tokens": sampled,
            "total_tokens": len(context) + sampled,
        }
        return {
            "id": "stub",
            "object": "chat.completion" if "messages" in asked else "text_completion",
            "created": 0,
            "model": "stub",
            "choices": choices,
            "usage": usage,
            "prompt_token_ids": list(context.encode()),
            "service_seconds": service,
        }

    async def _serve(self, seconds: float) -> None:
        async with self._slots:
            await asyncio.sleep(seconds)
        self.work += seconds

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One kept-alive connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                if head.startswith(b"GET /v1/work"):
                    body = json.dumps(self.work).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                    continue
                if head.startswith(b"GET"):
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    continue
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                assert length
                asked = json.loads(await reader.readexactly(int(length[1])))
                sent = json.dumps(await self.reply(path, asked)).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(sent) + sent
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@contextmanager
def running(
    slots: int, seconds_per_token: float, tokens: int, depth: int, each_choice: bool = False
) -> Iterator[str]:
    """The base URL of a stub in a process of its own, as long as the block runs."""
    options = [str(it) for it in (slots, seconds_per_token, tokens, depth, int(each_choice))]
    with subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.terminate()


async def _serve(stub: Stub) -> None:
    server = await asyncio.start_server(stub.connected, "127.0.0.1", 0, limit=1 << 24, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slots", type=int)
    parser.add_argument("seconds_per_token", type=float)
    parser.add_argument("tokens", type=int)
    parser.add_argument("depth", type=int)
    parser.add_argument("each_choice", type=int)
    asked = parser.parse_args()

    async def start() -> None:
        await _serve(
            Stub(asked.slots, asked.seconds_per_token, asked.tokens, asked.depth, bool(asked.each_choice))
        )

    asyncio.run(start())


if __name__ == "__main__":
    main()
