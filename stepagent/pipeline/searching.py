"""Stage: problems -> trees.jsonl -> preferences.jsonl."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepagent.config import Config
from stepagent.errors import DataError
from stepagent.jsonl import drop_torn_line, dump_row, read_rows, write_rows
from stepagent.pipeline.components import Components
from stepagent.pipeline.progress import bar, table
from stepagent.preferences import PAIR, collect
from stepagent.search.runner import search_all
from stepagent.tree import StepTree
from stepagent.types import Problem, Usage


def load_problems(path: Path) -> list[Problem]:
    """Problems from JSONL rows {question, id?, answer?, metadata?}; a missing id is the line's number.

    Raises DataError with file and line for a row without a question or a repeated id.
    """

    def mend(what: str) -> str:
        return f"{what}; a problem needs a non-empty 'question'" if "question" in what else what

    rows = read_rows(path, _ProblemRow, mend)
    seen: dict[str, int] = {}
    problems = []
    for line, row in enumerate(rows, start=1):
        if not row.question.strip():
            raise DataError.at(path, line, "the 'question' is empty; a problem needs one")
        name = str(row.id) if row.id is not None else str(line)
        if name in seen:
            raise DataError.at(path, line, f"the id '{name}' is also in row {seen[name]}; make ids unique")
        seen[name] = line
        answer = str(row.answer) if row.answer is not None else None
        problems.append(Problem(name, row.question, answer, row.metadata or {}))
    if not problems:
        raise DataError(f"{path}: no problems in the file")
    return problems


@dataclass(frozen=True, slots=True)
class _ProblemRow:
    question: str
    id: str | int | None = None
    answer: str | int | float | None = None
    metadata: dict[str, object] | None = None


def search_problems(
    components: Components,
    problems: Sequence[Problem],
    trees: Path,
    config: Config,
    round_index: int,
    label: str,
) -> list[StepTree]:
    """Search what `trees` does not hold yet, appending a line as each tree finishes; returns all trees.

    What a killed run had finished is kept; a torn last line is searched again.
    """
    trees.parent.mkdir(parents=True, exist_ok=True)
    drop_torn_line(trees)
    done = {tree.problem.id: tree for tree in read_rows(trees, StepTree)} if trees.exists() else {}
    left = [problem.without_answer() for problem in problems if problem.id not in done]
    steps = 0
    with bar(label, len(problems)) as progress, trees.open("a", encoding="utf-8") as file:
        progress.advance(len(done))

        def finished(tree: StepTree) -> None:
            nonlocal steps
            tree.round = round_index
            tree.generator = config.generator.kind
            tree.judge = config.judge.kind
            file.write(dump_row(tree))
            file.flush()
            done[tree.problem.id] = tree
            steps += len(tree.path)
            progress.advance(note=f"{steps} steps")

        asyncio.run(search_all(components.strategy, left, config.seed, config.concurrency, finished))
    return [done[problem.id] for problem in problems]


def search_stage(
    components: Components,
    problems: Sequence[Problem],
    trees: Path,
    preferences: Path,
    config: Config,
    round_index: int,
) -> dict[str, object]:
    """Search, write both files, print what became of every level. Returns the counts."""
    start = time.monotonic()
    grown = search_problems(components, problems, trees, config, round_index, f"search, round {round_index}")
    rows, outcomes = collect(grown)
    write_rows(preferences, rows)
    report = describe(grown, outcomes, time.monotonic() - start)
    table(f"Search, round {round_index}", report)
    return report


def describe(trees: Sequence[StepTree], outcomes: Counter[str], seconds: float) -> dict[str, object]:
    """The closing figures of a search: how trees ended, pairs kept, levels dropped and why, cost."""
    usage = sum((tree.usage for tree in trees), Usage())
    ends = Counter(tree.status for tree in trees)
    votes = [v for tree in trees for lv in tree.levels if lv.verdict for v in lv.verdict.votes]
    asked = Counter(vote.outcome for vote in votes)
    return {
        "problems": len(trees),
        **{f"  {name}": count for name, count in ends.most_common()},
        "levels": sum(outcomes.values()),
        "  preference pairs": outcomes[PAIR],
        **{f"  no pair: {why}": n for why, n in outcomes.most_common() if why != PAIR},
        "comparisons": len(votes),
        **{f"  {name}": count for name, count in asked.most_common()},
        "requests": usage.requests,
        "prompt tokens": usage.prompt_tokens,
        "sampled tokens": usage.completion_tokens,
        "seconds": round(seconds, 1),
    }
