"""The response store: what was answered once is never asked again. One SQLite file beside the run."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter
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
    """Completions by content key and sample index. A reply is committed before anybody sees it, those that
    come together in one transaction, so a process that is killed loses only what was in flight. Raises
    DataError for a file that is no store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path}: not a usable response store ({error}); move it away") from None
        self._contexts: list[tuple[object, ...]] = []
        self._responses: list[tuple[object, ...]] = []
        self._waiting: list[asyncio.Future[None]] = []

    async def get(self, key: str, count: int) -> Completions | None:
        """The first `count` stored samples, or as many as there are; None if there are none. Raises
        DataError."""
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
        return Completions(
            tuple(_COMPLETION.validate_json(row[0]) for row in rows),
            text,
            tuple(json.loads(ids)) if ids else None,
            sum((Usage(*row[1:]) for row in rows), Usage()),
            tokenizer,
        )

    async def put(self, key: str, first: int, reply: Completions, model: str) -> None:
        """Commit the samples from index `first` on. The request's cost is kept with its first sample, each
        sample's own tokens with it where they are known."""
        ids = to_json(reply.prompt_ids).decode() if reply.prompt_ids is not None else None
        cost = (reply.usage.requests, reply.usage.prompt_tokens, reply.usage.completion_tokens)
        loop = asyncio.get_running_loop()
        if not self._responses:
            loop.call_soon(self.commit)
        self._contexts.append((key, reply.prompt_text, ids, reply.tokenizer_sha256))
        for i, choice in enumerate(reply.choices):
            said = _COMPLETION.dump_json(choice).decode()
            self._responses.append((key, first + i, said, model, *(cost if i == 0 else (0, 0, 0))))
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(done)
        await done

    def commit(self) -> None:
        """Write what was put since the last time."""
        if not self._responses:
            return
        failure: DataError | None = None
        try:
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany("INSERT OR IGNORE INTO contexts VALUES (?, ?, ?, ?)", self._contexts)
                self._db.executemany(
                    "INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", self._responses
                )
        except sqlite3.Error as error:
            failure = DataError(
                f"{self._path}: replies cannot be stored ({error}); free the disk, then go on"
            )
        self._contexts.clear()
        self._responses.clear()
        for done in self._waiting:
            if done.done():
                continue
            if failure:
                done.set_exception(failure)
            else:
                done.set_result(None)
        self._waiting.clear()

    def spent(self) -> dict[str, Usage]:
        """What all stored replies cost, by model."""
        self.commit()
        rows = self._db.execute(
            "SELECT model, SUM(requests), SUM(prompt_tokens), SUM(completion_tokens) FROM responses "
            "GROUP BY model"
        )
        return {model: Usage(*cost) for model, *cost in rows}

    def close(self) -> None:
        """Commit and close the file."""
        self.commit()
        self._db.close()


class Store(Protocol):
    """What keeps replies: a file, or somebody who has it."""

    async def get(self, key: str, count: int) -> Completions | None: ...
    async def put(self, key: str, first: int, reply: Completions, model: str) -> None: ...
    def close(self) -> None: ...


class Stored(Wrapper):
    """Answers from `store` what it holds, asks `backend` for the rest. `version` tells models apart: the
    weights' hash where it is known, so that M_i's answers are never replayed as M_{i+1}'s.

    A failed or cancelled request is not stored. A reply from the store reports what it cost when it was made.
    """

    def __init__(self, backend: Backend, store: Store, version: str) -> None:
        super().__init__(backend)
        self.replayed = 0
        self._store = store
        self._version = version

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend. Sample i of a request with seed s is what one with seed s + i gives (vLLM's rule)."""
        key = content_key(self._version, prompt, sampling)
        stored = await self._store.get(key, sampling.n)
        have = len(stored.choices) if stored else 0
        if stored and have == sampling.n:
            self.replayed += 1
            return stored
        rest = replace(sampling, n=sampling.n - have, seed=sampling.seed + have)
        reply = await self.wrapped.complete(prompt, rest)
        await self._store.put(key, have, reply, self.model)
        if not stored:
            return reply
        return replace(reply, choices=stored.choices + reply.choices, usage=stored.usage + reply.usage)


def content_key(version: str, prompt: Prompt, sampling: Sampling) -> str:
    """A hash of all that decides a reply's samples, beside their index."""
    turns = [[turn.role, turn.content] for turn in prompt.messages]
    drawn = [sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop, sampling.seed]
    content = [version, turns, prompt.prefix_ids or prompt.prefix_text, *drawn, sampling.top_logprobs]
    return sha256(json.dumps(content).encode()).hexdigest()
