"""Stage: judge candidate steps from a file."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepagent.config import Config
from stepagent.errors import DataError
from stepagent.interfaces import Judge
from stepagent.jsonl import drop_torn_line, dump_row, read_rows
from stepagent.pipeline.progress import bar, table
from stepagent.seeds import derive_seed
from stepagent.types import Problem, Step, Verdict


@dataclass(frozen=True, slots=True)
class CandidatesRow:
    """A question, the steps so far and the candidate next steps, as text."""

    question: str
    candidates: tuple[str, ...]
    prefix: tuple[str, ...] = ()
    id: str | None = None


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """The verdict for one row of candidates; indices refer to the candidates as they stand there."""

    id: str
    verdict: Verdict


def plain_step(text: str) -> Step:
    """A step known only as text."""
    return Step(text, text.strip(), "stop", ends=False)


def judge_stage(judge: Judge, config: Config, data: Path, out: Path) -> dict[str, int]:
    """Judge every row of `data` that `out` does not hold yet, one JSONL line each. Returns the counts."""
    rows = read_rows(data, CandidatesRow)
    named: dict[str, CandidatesRow] = {}
    for line, row in enumerate(rows, start=1):
        if len(row.candidates) < 2:
            raise DataError.at(data, line, "a judge compares at least two 'candidates'")
        name = row.id or str(line)
        if name in named:
            raise DataError.at(data, line, f"the id '{name}' is not unique")
        named[name] = replace(row, id=name)
    if not named:
        raise DataError(f"{data}: no rows to judge")
    out.parent.mkdir(parents=True, exist_ok=True)
    drop_torn_line(out)
    done = {row.id: row for row in read_rows(out, VerdictRow)} if out.exists() else {}
    left = [row for name, row in named.items() if name not in done]
    asyncio.run(_judge(judge, config, left, len(done), done, out))
    statuses = Counter(row.verdict.status for row in done.values())
    report = {"rows": len(done), **{str(name): count for name, count in statuses.items()}}
    table("Verdicts", report)
    return report


async def _judge(
    judge: Judge,
    config: Config,
    rows: Sequence[CandidatesRow],
    already: int,
    done: dict[str, VerdictRow],
    out: Path,
) -> None:
    limit = asyncio.Semaphore(config.concurrency)
    with bar("judge", len(rows) + already) as progress, out.open("a", encoding="utf-8") as file:
        progress.advance(already)

        async def ask(row: CandidatesRow) -> None:
            assert row.id
            async with limit:
                verdict = await judge.judge(
                    Problem(row.id, row.question),
                    [plain_step(text) for text in row.prefix],
                    [plain_step(text) for text in row.candidates],
                    derive_seed(config.seed, "judge file", row.id),
                )
            done[row.id] = VerdictRow(row.id, verdict)
            file.write(dump_row(done[row.id]))
            file.flush()
            progress.advance()

        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(ask(row))
