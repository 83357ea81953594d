"""The arithmetic world's files, as people have them before anything is learnt."""

from __future__ import annotations

import random
from pathlib import Path

from stepagent.demo.world import correct_answer, make_question, quick_solution
from stepagent.files.jsonl import write_rows


def write_data(folder: Path, seed: int, *, solutions: int, eft: int, problems: int, held_out: int) -> None:
    """Write solutions.jsonl (whole texts, with the slips that people make), eft_problems.jsonl,
    problems.jsonl for the rounds and held_out.jsonl with so many rows. No question is in two of them."""
    rng = random.Random(seed)
    used: set[str] = set()

    def question() -> str:
        while (made := make_question(rng)) in used:
            pass
        used.add(made)
        return made

    solved: list[dict[str, str]] = []
    while len(solved) < solutions:
        asked = question()
        if lines := quick_solution(rng, asked):
            solved.append({"question": asked, "solution": "\n".join(lines)})
    write_rows(folder / "solutions.jsonl", solved)
    for name, count in (("eft_problems", eft), ("problems", problems), ("held_out", held_out)):
        rows = [
            {"id": f"{name}-{i:05d}", "question": asked, "answer": str(correct_answer(asked))}
            for i, asked in enumerate(question() for _ in range(count))
        ]
        write_rows(folder / f"{name}.jsonl", rows)
