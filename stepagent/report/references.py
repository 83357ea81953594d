"""Reference answers, for a report to show which solutions are wrong; read only where they lie on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepagent.graders.choice import ChoiceGrader
from stepagent.graders.json import JsonGrader
from stepagent.graders.math import MathGrader
from stepagent.graders.number import NumberGrader
from stepagent.graders.text import TextGrader
from stepagent.interfaces import Grader
from stepagent.report.folder import ReportFolder
from stepagent.report.reading import Gaps, typed_rows
from stepagent.report.shapes import GraderFacts

_READERS: dict[str, type[Grader]] = {
    "math": MathGrader,
    "choice": ChoiceGrader,
    "text": TextGrader,
    "json": JsonGrader,
}


@dataclass(frozen=True, slots=True)
class References:
    """Reference answers by question, and the grader of the run; None for one that runs code: a report runs none."""

    answers: Mapping[str, str]
    grader: Grader | None


def references_of(folder: ReportFolder) -> References:
    """Return the reference answers that the config's problem files hold. Converted files of a run count, others, such
    as a hub id, do not: a report loads nothing."""
    config = folder.config
    sources = [config.problems, *([config.evaluate.problems] if config.evaluate else [])]
    paths = [Path(source.path) for source in sources if source.path.endswith(".jsonl")]
    paths += sorted(folder.path.glob("data/*.jsonl"))
    answers: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        for row in typed_rows(path, dict[str, Any], Gaps()):  # its rows are checked where they are used
            if isinstance(row.get("question"), str) and row.get("answer") is not None:
                answers.setdefault(row["question"], str(row["answer"]))
    return References(answers, _grader(config.grader))


def _grader(facts: GraderFacts) -> Grader | None:
    if facts.kind == "number":
        return NumberGrader(facts.relative, facts.absolute)
    return _READERS[facts.kind]() if facts.kind in _READERS else None
