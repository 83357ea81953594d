"""A server of a tiny model in vLLM's protocol, in a thread: it can die, be born again, and change its weights.

Its replies depend on the weights, the token ids of the prompt and the seed alone, so that two runs on the same weights
are alike to the byte. A real vLLM takes half a minute to start; this one takes none.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from stepagent.errors import ModelError
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.testing.stub_server import packet
from stepagent.types import Message

_WINDOW = 128
_LOADING = threading.Lock()  # Transformers loads one model at a time in a process


class TinyServer:
    """The server of the model in `folder`, on a port of 127.0.0.1 that stays the same however often it dies."""

    def __init__(self, folder: Path, name: str = "policy") -> None:
        self._base, self._name = folder, name
        self._tokenizer = ChatTokenizer(folder)
        self._connections: set[asyncio.StreamWriter] = set()
        self._listening: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = 0
        self.be_born()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def be_born(self) -> None:
        """Serve the base model's weights, as a process that was started anew."""
        self._run(self._be_born()).result()

    def die(self) -> None:
        """Close the port and all connections, whatever they wait for."""
        self._run(self._die()).result()

    def swap(self, folder: Path) -> None:
        """Serve other weights without a word, as someone does who reloads a server by hand."""
        self._run(self._swap(folder)).result()

    def close(self) -> None:
        """End the server and its thread."""
        self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _be_born(self) -> None:
        if self._listening:
            return
        await self._swap(self._base)
        self._birth = time.time()
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=1 << 24)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _die(self) -> None:
        if self._listening:
            self._listening.close()
            self._listening = None
        for writer in list(self._connections):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _swap(self, folder: Path) -> None:
        with _LOADING:
            self._model = load_model(folder, torch.float32, torch.device("cpu")).eval()
        self._folder = folder

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                content = await reader.readexactly(int(length[1])) if length else b""
                writer.write(await self._answer(head.split(b" ", 2)[1].decode(), json.loads(content or b"{}")))
                await writer.drain()
        self._connections.discard(writer)
        writer.close()

    async def _answer(self, path: str, body: dict[str, Any]) -> bytes:
        place = path.partition("?")[0]
        if place == "/metrics":
            return packet(200, f"process_start_time_seconds {self._birth:.6f}\n".encode())
        if place in ("/health", "/is_paused", "/pause", "/resume", "/reset_prefix_cache"):
            return packet(200, {})
        if place == "/v1/models":
            entry = {"id": self._name, "root": str(self._folder), "max_model_len": _WINDOW}
            return packet(200, {"object": "list", "data": [entry]})
        if place == "/collective_rpc":
            try:
                await self._swap(Path(body["kwargs"]["weights_path"]))
            except ModelError as error:
                return packet(500, {"error": {"message": str(error)}})
            return packet(200, {"results": [None]})
        if place == "/tokenize":
            return packet(200, {"tokens": self._prompt_ids(body), "max_model_len": _WINDOW})
        if place == "/detokenize":
            return packet(200, {"prompt": self._tokenizer.text(body["tokens"])})
        if place == "/v1/completions":
            return packet(200, self._completions(body))
        return packet(404, {"error": {"message": f"no route {place}"}})

    def _prompt_ids(self, body: dict[str, Any]) -> list[int]:
        if "prompt" in body:
            return list(self._tokenizer.ids(body["prompt"]))
        turns = [Message(turn["role"], turn["content"]) for turn in body["messages"]]
        return list(self._tokenizer.ids(self._tokenizer.render(turns)))

    def _completions(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = list(body["prompt"])
        choices = [self._choice(ids, body, index) for index in range(body.get("n") or 1)]
        if body.get("prompt_logprobs") is not None:
            choices[0]["prompt_logprobs"] = self._prompt_logprobs(ids)
        sampled = sum(len(choice["token_ids"]) for choice in choices)
        usage = {"prompt_tokens": len(ids), "completion_tokens": sampled, "total_tokens": len(ids) + sampled}
        return {"id": "t", "object": "text_completion", "model": self._name, "choices": choices, "usage": usage}

    @torch.no_grad()
    def _prompt_logprobs(self, ids: list[int]) -> list[Any]:
        logprobs = self._model(torch.tensor([ids])).logits[0].log_softmax(-1)
        rows = [{str(token): {"logprob": float(logprobs[i, token])}} for i, token in enumerate(ids[1:])]
        return [None, *rows]

    @torch.no_grad()
    def _choice(self, ids: list[int], body: dict[str, Any], index: int) -> dict[str, Any]:
        """Return one choice, drawn by its seed and index."""
        generator = torch.Generator().manual_seed(1000 * int(body.get("seed") or 0) + index)
        stops = body.get("stop") or ()
        tokens: list[int] = []
        logprobs: list[float] = []
        reason, stop_reason, text = "length", None, ""
        while len(tokens) < body["max_tokens"]:
            scores = self._model(torch.tensor([ids + tokens])).logits[0, -1].log_softmax(-1)
            token = int(torch.multinomial(scores.exp(), 1, generator=generator))
            tokens.append(token)
            logprobs.append(float(scores[token]))
            if token == self._tokenizer.end_id:
                reason = "stop"
                break
            text = self._tokenizer.text(tokens)
            stop_reason = next((stop for stop in stops if stop in text), None)
            if stop_reason:
                reason = "stop"
                break
        texts = [self._tokenizer.text([token]) for token in tokens]
        details = {"tokens": texts, "token_logprobs": logprobs}
        choice = {"index": index, "text": text, "finish_reason": reason, "stop_reason": stop_reason}
        return {**choice, "token_ids": tokens, "logprobs": details}
