"""Reference answers, for a report to show which solutions are wrong; read only where they lie on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepagent.report.folder import ReportFolder
from stepagent.report.reading import Gaps, typed_rows


def references_of(folder: ReportFolder) -> dict[str, str]:
    """Return the reference answers that the config's problem files hold, by question. Converted files of a run count,
    others, such as a hub id, do not: a report loads nothing."""
    config = folder.config
    sources = [config.problems, *([config.evaluate.problems] if config.evaluate else [])]
    paths = [Path(source.path) for source in sources if source.path.endswith(".jsonl")]
    paths += sorted(folder.path.glob("data/*.jsonl"))
    answers: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        for row in typed_rows(path, dict[str, Any], Gaps()):  # its rows are checked where they are used
            if isinstance(row.get("question"), str) and row.get("answer") is not None:
                answers.setdefault(row["question"], str(row["answer"]))
    return answers
