"""The worth of the filters of `stepagent data eft`: label accuracy before and after, and the share of pairs that
stay.

    python benchmarks/eft_yield.py --problems 3000 --json eft_yield.json

In the arithmetic world a scripted M_0 slips in half of its lines. Labels come from a judge that has a share
of the levels the wrong way round; a scripted teacher holds a wrong opinion of a share of the pairs, in both
positions, and says "first" whatever it thinks in another share of its replies.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from _bench import make_parser, write_figures
from pydantic import TypeAdapter

from stepagent.assembly.session import Session
from stepagent.backends.scripted import ScriptedBackend
from stepagent.config.loading import load_config
from stepagent.data.eft import make_eft
from stepagent.demo.oracle import OracleJudge
from stepagent.demo.world import in_range, line_is_right, make_question, next_operation, result
from stepagent.files.jsonl import iter_json, read_rows, write_rows
from stepagent.seeds import derive_seed
from stepagent.types import ModelVersion, Problem, Step, StepPair, Verdict

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
    backend: {{kind: "stepagent.demo.oracle:Marker", wrong: {teacher_wrong}, position_bias: {first_position}}}
"""


class Slips(ScriptedBackend):
    """A backend that writes the arithmetic world's lines, half of them wrong."""

    def __init__(self) -> None:
        super().__init__(reply=_solve)


def _solve(context: str, seed: int) -> str:
    question, _, reply = context.removeprefix("<user>").partition("<assistant>")
    lines = reply.splitlines()
    start, rng = len(lines), random.Random(seed)
    while operation := next_operation(question, lines):
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


def right_share(rows: Sequence[StepPair]) -> float:
    """Return the share of rows whose winner is the only right line, or whose tied lines are equally right."""
    outcomes = []
    for row in rows:
        first, second = (line_is_right(row.question, row.prefix, line) for line in (row.first, row.second))
        outcomes.append(row.winner == ("tie" if first == second else "first" if first else "second"))
    return sum(outcomes) / len(outcomes)


def labelled_rows(path: Path) -> list[StepPair]:
    """Return the pairs of labelled.jsonl, the better step first."""
    pairs = TypeAdapter(StepPair)
    return [pairs.validate_python(row) for _, row in iter_json(path) if "reason" not in row]


def write_world(
    folder: Path,
    problems: int,
    seed: int = 5,
    *,
    labels_wrong: float = 0.1,
    teacher_wrong: float = 0.2,
    first_position: float = 0.3,
) -> Path:
    """Write problems and a config into `folder`. Returns the config's path."""
    rng = random.Random(seed)
    rows = ({"id": str(i), "question": make_question(rng)} for i in range(problems))
    write_rows(folder / "problems.jsonl", rows)
    path = folder / "c.yaml"
    rates = {"labels_wrong": labels_wrong, "teacher_wrong": teacher_wrong, "first_position": first_position}
    path.write_text(CONFIG.format(folder=folder, **rates))
    return path


def main() -> None:
    parser = make_parser(__doc__, problems=3000, labels_wrong=0.1, teacher_wrong=0.2, first_position=0.3)
    options = parser.parse_args()
    rates = {name: getattr(options, name) for name in ("labels_wrong", "teacher_wrong", "first_position")}
    with tempfile.TemporaryDirectory() as work:
        folder, out = Path(work), Path(work) / "eft"
        config = load_config(write_world(folder, options.problems, options.seed, **rates), [f"seed={options.seed}"])
        assert config.eft is not None
        with Session(config, out) as session:
            report = make_eft(session, config.eft, ModelVersion.at(config.model))
        labelled = labelled_rows(out / "labelled.jsonl")
        rows = [row for name in ("eft", "test") for row in read_rows(out / f"{name}.jsonl", StepPair)]
        figures = {
            "labels right": right_share(labelled),
            "kept rows right": right_share(rows),
            "kept, of labelled pairs": int(str(report["pairs kept"])) / len(labelled),
        }
    for name, share in figures.items():
        print(f"{name}: {share:.1%}")
    write_figures(options.json, {**figures, "funnel": report})


if __name__ == "__main__":
    main()
