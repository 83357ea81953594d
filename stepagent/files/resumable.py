"""One JSONL line for every finished piece of work: what is there is kept, what failed is made again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from stepagent.console import bar
from stepagent.files.jsonl import drop_torn_line, dump_row, read_rows, write_rows

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


def resume(path: Path, kind: type[R], key: Callable[[R], K], failed: Callable[[R], bool]) -> dict[K, R]:
    """The rows of `path` by `key`, without those that `failed`: they leave the file. A line that a killed run
    left torn goes too. The file's folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drop_torn_line(path)
    kept = read_rows(path, kind) if path.exists() else []
    done = {key(row): row for row in kept if not failed(row)}
    if len(done) < len(kept):
        write_rows(path, done.values())
    return done


async def append_all(
    path: Path,
    label: str,
    concurrency: int,
    items: Mapping[K, T],
    done: dict[K, R],
    work: Callable[[K, T], Awaitable[R]],
) -> None:
    """Do `work` for every item that is not `done`, at most `concurrency` at once; each result is appended to
    `path` and added to `done` as it comes."""
    limit = asyncio.Semaphore(concurrency)
    with bar(label, len(items)) as progress, path.open("a", encoding="utf-8") as file:
        progress.advance(sum(key in done for key in items))

        async def one(key: K, item: T) -> None:
            async with limit:
                row = await work(key, item)
            done[key] = row
            file.write(dump_row(row))
            file.flush()
            progress.advance()

        async with asyncio.TaskGroup() as group:
            for key, item in items.items():
                if key not in done:
                    group.create_task(one(key, item))
