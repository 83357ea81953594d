"""Requests for what can wait: collected, and sent through the batch endpoint of OpenAI-compatible servers, which answer
within a day at half the price."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

import openai

from stepagent.backends.endpoint import Endpoint
from stepagent.backends.replies import read_reply, server_words
from stepagent.errors import BackendError, ConfigError, RefusedError, TransientError

_log = logging.getLogger("stepagent")
_QUIET = 1.0  # seconds without a new request after which those that wait are sent
_POLL = 15.0  # seconds between looks at a batch
MOST_REQUESTS, _MOST_BYTES = 50_000, 100 << 20  # of a batch: OpenAI's limits, the second halved
_MARK = "stepagent"
_OVER = ("completed", "failed", "expired", "cancelled")

T = TypeVar("T")


class _Request(NamedTuple):
    """A line of a batch's file, and its reply to be."""

    line: bytes
    reply: asyncio.Future[Any]


class BatchEndpoint(Endpoint):
    """Endpoint that sends requests for completions in batches; other requests go at once.

    A batch bears a hash of its requests as metadata. A command that was stopped makes the same requests again, finds
    their batch by the hash, and waits for it instead of paying twice.
    """

    def __init__(self, *arguments: Any, quiet: float = _QUIET, poll: float = _POLL, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._quiet = quiet
        self._poll = poll
        self._queues: dict[str, dict[str, _Request]] = {}  # by path, by id
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrivals = 0
        self._ended: set[str] = set()  # ids of batches whose replies were handed out: a retry needs a new one

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """See Endpoint. Returns once the request's batch is done, which may take a day."""
        if "completions" not in path:
            return await super().post(path, body)
        content = self.complete_body(path, body)
        key = sha256(json.dumps([path, content], sort_keys=True).encode()).hexdigest()[:32]
        line = {"custom_id": key, "method": "POST", "url": f"/v1/{path}", "body": content}
        queue = self._queues.setdefault(path, {})
        if key not in queue:
            reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            queue[key] = _Request(json.dumps(line).encode() + b"\n", reply)
            self._arrivals += 1
            self._start(self._flush(self._arrivals))
        # two callers may wait for one request; the first that is cancelled must not take the reply from the other
        return self.checked(await asyncio.shield(queue[key].reply))

    async def close(self) -> None:
        """See Endpoint. Batches that were sent go on at the server."""
        for task in tuple(self._tasks):
            task.cancel()
        await super().close()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop alone would let go of it
        task.add_done_callback(self._tasks.discard)

    async def _flush(self, arrivals: int) -> None:
        """Send all that waits, unless a request has come meanwhile, whose own flush will."""
        await asyncio.sleep(self._quiet)
        if arrivals != self._arrivals:
            return
        queues, self._queues = self._queues, {}
        for path, queue in queues.items():
            for requests in _portions(queue):
                self._start(self._deliver(path, requests))

    async def _deliver(self, path: str, requests: dict[str, _Request]) -> None:
        """Give every request its reply, or the error of its batch."""
        try:
            replies = await self._through_batch(path, requests)
        except (BackendError, ConfigError) as error:
            replies = dict.fromkeys(requests, error)
        missing = TransientError(f"{self.url}: the batch ended without a reply to this request")
        for key, request in requests.items():
            reply = replies.get(key, missing)
            if request.reply.done():  # its caller was cancelled
                continue
            if isinstance(reply, Exception):
                request.reply.set_exception(reply)
            else:
                request.reply.set_result(reply)

    async def _through_batch(self, path: str, requests: Mapping[str, _Request]) -> dict[str, Any]:
        """Return the replies and refusals of a batch, by id. Raises TransientError, BackendError or ConfigError."""
        mark = sha256("".join(sorted(requests)).encode()).hexdigest()[:32]
        batch = await self._earlier(mark) or await self._submit(path, mark, requests)
        finished = -1
        while batch.status not in _OVER:
            counts = batch.request_counts
            if counts and counts.completed + counts.failed != finished:
                finished = counts.completed + counts.failed
                _log.info("batch %s: %d of %d requests, %s", batch.id, finished, len(requests), batch.status)
            await asyncio.sleep(self._poll)
            batch = await self._asked(self._client.batches.retrieve(batch.id))
        self._ended.add(batch.id)
        if batch.status == "failed":
            errors = batch.errors.data if batch.errors else None
            words = "; ".join(str(error.message) for error in errors or ()) or "no words"
            raise RefusedError(f"{self.url}: the batch {batch.id} failed: {words}")
        replies: dict[str, Any] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                content = await self._asked(self._client.files.content(file))
                replies |= dict(self._read(content.content))
        return replies

    async def _earlier(self, mark: str) -> Any:
        """Return the batch with these very requests that an earlier command sent, if it may still answer them."""
        page = await self._asked(self._client.batches.list(limit=100), batches=True)
        for batch in page.data:
            marked = (batch.metadata or {}).get(_MARK) == mark and batch.id not in self._ended
            if marked and batch.status not in ("failed", "expired", "cancelled"):
                _log.info("batch %s has these requests already; waiting for it", batch.id)
                return batch
        return None

    async def _submit(self, path: str, mark: str, requests: Mapping[str, _Request]) -> Any:
        lines = b"".join(request.line for request in requests.values())
        file = await self._asked(self._client.files.create(file=("requests.jsonl", lines), purpose="batch"))
        endpoint: Any = f"/v1/{path}"
        batch = await self._asked(
            self._client.batches.create(
                input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={_MARK: mark}
            )
        )
        _log.info(
            "batch %s: %d requests sent to %s, which answers within a day; a command that is stopped goes on waiting "
            "when it is started again",
            *(batch.id, len(requests), self.url),
        )
        return batch

    async def _asked(self, call: Awaitable[T], *, batches: bool = False) -> T:
        """Return what the client brings, or raise what its failure means. `batches`: the address may have none."""
        try:
            return await call
        except openai.APIStatusError as error:
            response = error.response
        except Exception as error:  # noqa: BLE001 (as in Endpoint)
            raise self.lost(error) from None
        if batches and response.status_code in (404, 405, 501):
            raise ConfigError(f"{self.url}: backend.batch: this server has no batches; leave batch out")
        raise self.refusal(response.status_code, response.headers, response.content)

    def _read(self, content: bytes) -> Iterator[tuple[str, Any]]:
        """Yield the id of each line of a batch's file, with its reply or the error that it stands for."""
        for line in content.splitlines():
            if not line.strip():
                continue
            try:
                row = read_reply(line)
                key, response, error = row["custom_id"], row.get("response"), row.get("error")
                body = response["body"] if response else None
                status = int(response["status_code"]) if response else 500
            except (ValueError, KeyError, TypeError, AttributeError):
                _log.warning("a line of a batch cannot be read: %s", server_words(line)[:100])
                continue
            if status == 200 and not error:
                yield key, body
            else:
                yield key, self.refusal(status, {}, json.dumps(body if body else {"error": error}).encode())


def _portions(queue: Mapping[str, _Request]) -> Iterator[dict[str, _Request]]:
    """Yield the requests in batches that a server takes."""
    portion: dict[str, _Request] = {}
    size = 0
    for key, request in queue.items():
        if portion and (len(portion) == MOST_REQUESTS or size + len(request.line) > _MOST_BYTES):
            yield portion
            portion, size = {}, 0
        portion[key] = request
        size += len(request.line)
    if portion:
        yield portion
