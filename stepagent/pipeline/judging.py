"""Stage: judge candidate steps from a file."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stepagent.config import Config
from stepagent.interfaces import Judge
from stepagent.jsonl import drop_torn_line, dump_row, read_rows, write_rows
from stepagent.pipeline.components import Components
from stepagent.pipeline.progress import bar, table
from stepagent.pipeline.rows import CandidatesRow, load_candidates, plain_step
from stepagent.seeds import derive_seed
from stepagent.types import Problem, Verdict


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """The verdict for one row of candidates; indices refer to the candidates as they stand there."""

    id: str
    verdict: Verdict


def judge_stage(components: Components, config: Config, data: Path, out: Path) -> None:
    """Judge every row of `data` that `out` does not hold yet, appending one JSONL line each."""
    rows = load_candidates(data)
    out.parent.mkdir(parents=True, exist_ok=True)
    drop_torn_line(out)
    kept = read_rows(out, VerdictRow) if out.exists() else []
    done = {row.id: row for row in kept if row.verdict.status != "error"}
    if len(done) < len(kept):
        write_rows(out, done.values())
    components.resources.run(_judge(components.judge, config, rows, done, out))
    statuses = Counter(row.verdict.status for row in done.values())
    table("Verdicts", {"rows": len(done), **{str(name): count for name, count in statuses.items()}})


async def _judge(
    judge: Judge,
    config: Config,
    rows: Mapping[str, CandidatesRow],
    done: dict[str, VerdictRow],
    out: Path,
) -> None:
    limit = asyncio.Semaphore(config.concurrency)
    with bar("judge", len(rows)) as progress, out.open("a", encoding="utf-8") as file:
        progress.advance(len(done))

        async def ask(name: str, row: CandidatesRow) -> None:
            async with limit:
                verdict = await judge.judge(
                    Problem(name, row.question),
                    [plain_step(text) for text in row.prefix],
                    [plain_step(text) for text in row.candidates],
                    derive_seed(config.seed, "judge file", name),
                )
            done[name] = VerdictRow(name, verdict)
            file.write(dump_row(done[name]))
            file.flush()
            progress.advance()

        async with asyncio.TaskGroup() as group:
            for name, row in rows.items():
                if name not in done:
                    group.create_task(ask(name, row))
