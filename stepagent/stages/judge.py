"""Stage: judge candidate steps from a file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stepagent.assembly.components import Components
from stepagent.config.settings import Config
from stepagent.console import table
from stepagent.files.resumable import append_all, resume
from stepagent.files.rows import CandidatesRow, load_candidates, plain_step
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
    done = resume(out, VerdictRow, lambda row: row.id, lambda row: row.verdict.status == "error")

    async def judged(name: str, row: CandidatesRow) -> VerdictRow:
        verdict = await components.judge.judge(
            Problem(name, row.question),
            [plain_step(text) for text in row.prefix],
            [plain_step(text) for text in row.candidates],
            derive_seed(config.seed, "judge file", name),
        )
        return VerdictRow(name, verdict)

    components.resources.run(append_all(out, "judge", config.concurrency, rows, done, judged))
    statuses = Counter(row.verdict.status for row in done.values())
    table("Verdicts", {"rows": len(done), **{str(name): count for name, count in statuses.items()}})
