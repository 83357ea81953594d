"""What the filters of `stepagent data eft` are worth: label accuracy before and after, and how many pairs
stay.

    python benchmarks/eft_yield.py --problems 3000 --json eft_yield.json

In the arithmetic world a scripted M_0 slips in half of its lines. Labels come from a judge that has a share
of the levels the wrong way round; a scripted teacher holds a wrong opinion of a share of the pairs, in both
seats, and says "first" whatever it thinks in another share of its replies.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stepagent.backends.scripted import ScriptedBackend
from stepagent.config.loading import load_config
from stepagent.data.eft import eft_stage
from stepagent.demo.oracle import OracleJudge
from stepagent.demo.world import in_range, line_is_right, make_question, next_operation, result
from stepagent.files.jsonl import iter_json, read_rows, write_rows
from stepagent.files.rows import EftRow
from stepagent.seeds import derive_seed
from stepagent.types import Problem, Step, Verdict

CONFIG = """
model: none
problems: {folder}/problems.jsonl
backend: {{kind: "eft_yield:Slips"}}
generator: {{prompt: demo_solve, boundary: line, temperature: 1.0, max_tokens: 40}}
judge: {{prompt: demo_judge}}
search: {{width: 4}}
eft:
  problems: {folder}/problems.jsonl
  labels: {{kind: "eft_yield:Hasty", wrong: {labels_wrong}}}
  teacher:
    prompt: demo_judge
    backend: {{kind: "stepagent.demo.oracle:Marker", wrong: {teacher_wrong}, first_seat: {first_seat}}}
"""


class Slips(ScriptedBackend):
    """A backend that writes the arithmetic world's lines, half of them wrong."""

    def __init__(self) -> None:
        super().__init__(reply=_solve)


def _solve(context: str, seed: int) -> str:
    asked, _, written = context.removeprefix("<user>").partition("<assistant>")
    lines = written.splitlines()
    start, rng = len(lines), random.Random(seed)
    while operation := next_operation(asked, lines):
        slip = rng.random() < 0.5 and in_range(operation.slipped)
        lines.append(f"{operation}={operation.slipped if slip else operation.value}")
    return "\n".join([*lines[start:], f"={result(lines[-1])}"])


class Hasty:
    """A labelling judge that has a share of the levels the wrong way round."""

    def __init__(self, wrong: float) -> None:
        self._oracle = OracleJudge()
        self._wrong = wrong

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        verdict = await self._oracle.judge(problem, prefix, candidates, seed)
        errs = random.Random(derive_seed("hasty", problem.question, len(prefix)))
        if verdict.status == "ok" and errs.random() < self._wrong:
            return replace(verdict, best=verdict.worst, worst=verdict.best)
        return verdict


def right_share(rows: Sequence[EftRow]) -> float:
    """How often the winner of a row is the only right line, or a tie's lines are equally right."""
    said = []
    for row in rows:
        right = [line_is_right(row.question, row.prefix, line) for line in (row.first, row.second)]
        said.append({(True, False): "first", (False, True): "second"}.get(tuple(right), "tie") == row.winner)  # type: ignore[arg-type]
    return sum(said) / len(said)


def labelled_rows(path: Path) -> list[EftRow]:
    """The pairs of labelled.jsonl, the better step first."""
    rows = [row for _, row in iter_json(path) if "reason" not in row]
    return [
        EftRow(
            row["question"],
            tuple(row["prefix"]),
            row["one"],
            row["other"],
            winner="tie" if row["tie"] else "first",
        )
        for row in rows
    ]


def write_world(
    folder: Path,
    problems: int,
    seed: int = 5,
    labels_wrong: float = 0.1,
    teacher_wrong: float = 0.2,
    first_seat: float = 0.3,
) -> Path:
    """Problems and a config in `folder`; returns the config's path."""
    rng = random.Random(seed)
    rows = ({"id": str(i), "question": make_question(rng)} for i in range(problems))
    write_rows(folder / "problems.jsonl", rows)
    path = folder / "c.yaml"
    path.write_text(
        CONFIG.format(folder=folder, labels_wrong=labels_wrong, teacher_wrong=teacher_wrong, first_seat=first_seat)
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=3000)
    parser.add_argument("--labels-wrong", type=float, default=0.1)
    parser.add_argument("--teacher-wrong", type=float, default=0.2)
    parser.add_argument("--first-seat", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        rates = (asked.labels_wrong, asked.teacher_wrong, asked.first_seat)
        config = load_config(write_world(folder, asked.problems, asked.seed, *rates), [f"seed={asked.seed}"])
        assert config.eft is not None
        report = eft_stage(config, config.eft, "none", folder / "eft")
        labelled = labelled_rows(folder / "eft" / "labelled.jsonl")
        kept = read_rows(folder / "eft" / "eft.jsonl", EftRow) + read_rows(folder / "eft" / "test.jsonl", EftRow)
        figures = {
            "labels right": right_share(labelled),
            "kept rows right": right_share(kept),
            "kept, of labelled pairs": int(str(report["pairs kept"])) / len(labelled),
        }
    for name, share in figures.items():
        print(f"{name}: {share:.1%}")
    if asked.json:
        asked.json.write_text(json.dumps({**figures, "funnel": report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
