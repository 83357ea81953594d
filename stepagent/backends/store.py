"""The response store: one SQLite file beside the run, so that no request is made twice."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from stepagent.backends.wrapper import Wrapper
from stepagent.errors import DataError
from stepagent.interfaces import Backend
from stepagent.types import Completion, Completions, Prompt, Sampling, Usage

_SCHEMA = """
CREATE TABLE IF NOT EXISTS contexts (
    key TEXT PRIMARY KEY, prompt_text TEXT, prompt_ids TEXT, tokenizer_sha256 TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS responses (
    key TEXT, sample INTEGER, completion TEXT, model TEXT,
    requests INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
    PRIMARY KEY (key, sample)) WITHOUT ROWID;
"""
_COMPLETION = TypeAdapter(Completion)


class ResponseStore:
    """Store of completions by content key and sample index. Raises DataError for a file that is no store.

    A reply is committed before its caller sees it, so a process that is killed loses only the requests in
    flight. Replies that come together share one transaction.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            for columns in (
                "key, prompt_text, prompt_ids, tokenizer_sha256 FROM contexts",
                "key, sample, completion, model, requests, prompt_tokens, completion_tokens FROM responses",
            ):
                self._db.execute(f"SELECT {columns} LIMIT 0")  # fails for a store of another schema
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path}: not a usable response store ({error}); move it away") from None
        self._contexts: list[tuple[object, ...]] = []
        self._responses: list[tuple[object, ...]] = []
        self._waiting: list[asyncio.Future[None]] = []

    async def get(self, key: str, count: int) -> Completions | None:
        """Return the first `count` stored samples, or fewer if fewer are stored; None if there are none.
        Raises DataError."""
        self.commit()
        try:
            rows = self._db.execute(
                "SELECT completion, requests, prompt_tokens, completion_tokens FROM responses "
                "WHERE key = ? AND sample < ? ORDER BY sample",
                (key, count),
            ).fetchall()
            if not rows:
                return None
            text, ids, tokenizer = self._db.execute(
                "SELECT prompt_text, prompt_ids, tokenizer_sha256 FROM contexts WHERE key = ?", (key,)
            ).fetchone()
        except sqlite3.Error as error:
            raise DataError(f"{self._path}: not a usable response store ({error}); move it away") from None
        try:
            choices = tuple(_COMPLETION.validate_json(row[0]) for row in rows)
        except ValidationError:  # of a version that stored all that a server sent: it is asked again
            return None
        return Completions(
            choices,
            text,
            tuple(json.loads(ids)) if ids else None,
            usage=sum((Usage(*row[1:]) for row in rows), Usage()),
            tokenizer_sha256=tokenizer,
        )

    async def put(self, key: str, first: int, reply: Completions, *, model: str) -> None:
        """Commit the samples of `reply` under the indices from `first` on. Raises DataError.

        The whole cost of the request is stored with its first sample.
        """
        ids = to_json(reply.prompt_ids).decode() if reply.prompt_ids is not None else None
        cost = (reply.usage.requests, reply.usage.prompt_tokens, reply.usage.completion_tokens)
        loop = asyncio.get_running_loop()
        if not self._responses:
            loop.call_soon(self.commit)
        self._contexts.append((key, reply.prompt_text, ids, reply.tokenizer_sha256))
        for i, choice in enumerate(reply.choices):
            completion = _COMPLETION.dump_json(choice).decode()
            self._responses.append((key, first + i, completion, model, *(cost if i == 0 else (0, 0, 0))))
        receipt: asyncio.Future[None] = loop.create_future()
        self._waiting.append(receipt)
        await receipt

    def commit(self) -> None:
        """Write all samples put since the last commit, and tell their callers."""
        if not self._responses:
            return
        failure: DataError | None = None
        try:
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany("INSERT OR IGNORE INTO contexts VALUES (?, ?, ?, ?)", self._contexts)
                self._db.executemany("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", self._responses)
        except sqlite3.Error as error:
            failure = DataError(f"{self._path}: replies cannot be stored ({error}); free the disk, then go on")
        self._contexts.clear()
        self._responses.clear()
        for receipt in self._waiting:
            if receipt.done():
                continue
            if failure:
                receipt.set_exception(failure)
            else:
                receipt.set_result(None)
        self._waiting.clear()

    def spent(self) -> dict[str, Usage]:
        """Return the cost of all stored replies, by model."""
        self.commit()
        rows = self._db.execute(
            "SELECT model, SUM(requests), SUM(prompt_tokens), SUM(completion_tokens) FROM responses GROUP BY model"
        )
        return {model: Usage(*cost) for model, *cost in rows}

    def close(self) -> None:
        """Commit and close the file."""
        self.commit()
        self._db.close()


class Store(Protocol):
    """Keeper of replies: a ResponseStore, or a client of a process that has one."""

    async def get(self, key: str, count: int) -> Completions | None:
        """Return the first `count` stored samples of `key`, or as many as there are."""
        ...

    async def put(self, key: str, first: int, reply: Completions, *, model: str) -> None:
        """Keep the samples of a reply, from index `first` on."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...


class Stored(Wrapper):
    """Wrapper that answers from `store` as far as it can, and asks `backend` for the missing samples.

    `version` tells models apart: the weights' hash where it is known, so that M_i's replies are never
    replayed as M_{i+1}'s. A failed or cancelled request is not stored. A reply from the store reports the
    cost of its original request. `replayed` counts requests answered wholly from the store.
    """

    def __init__(self, backend: Backend, store: Store, version: str) -> None:
        super().__init__(backend)
        self.replayed = 0
        self._store = store
        self._version = version

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend. Sample i of a request with seed s is the one with seed s + i (vLLM's rule)."""
        key = content_key(self._version, prompt, sampling)
        stored = await self._store.get(key, sampling.n)
        count = len(stored.choices) if stored else 0
        if stored and count == sampling.n:
            self.replayed += 1
            return stored
        missing = replace(sampling, n=sampling.n - count, seed=sampling.seed + count)
        reply = await self.wrapped.complete(prompt, missing)
        await self._store.put(key, count, reply, model=self.model)
        if not stored:
            return reply
        return replace(reply, choices=stored.choices + reply.choices, usage=stored.usage + reply.usage)


def content_key(version: str, prompt: Prompt, sampling: Sampling) -> str:
    """Return a hash of everything that decides a reply's samples, except their number `n`."""
    turns = [[turn.role, turn.content] for turn in prompt.messages]
    settings = [sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop, sampling.seed]
    content = [version, turns, prompt.prefix_ids or prompt.prefix_text, *settings, sampling.top_logprobs]
    if prompt.thinking in ("off", "steps"):
        content.append(prompt.thinking)
    return sha256(json.dumps(content).encode()).hexdigest()
