"""The arithmetic world's files, as people have them before any training."""

from __future__ import annotations

import random
from pathlib import Path

from stepagent.demo.world import correct_answer, make_question, quick_solution
from stepagent.files.jsonl import write_rows


def write_data(folder: Path, seed: int, *, solutions: int, eft: int, problems: int, held_out: int) -> None:
    """Write solutions.jsonl (whole texts, with the slips that people make), eft_problems.jsonl,
    problems.jsonl for the rounds and held_out.jsonl, with the given numbers of rows.

    No question is in two of the files.
    """
    rng = random.Random(seed)
    questions: set[str] = set()

    def new_question() -> str:
        while (question := make_question(rng)) in questions:
            pass
        questions.add(question)
        return question

    solution_rows: list[dict[str, str]] = []
    while len(solution_rows) < solutions:
        question = new_question()
        if lines := quick_solution(rng, question):
            solution_rows.append({"question": question, "solution": "\n".join(lines)})
    write_rows(folder / "solutions.jsonl", solution_rows)
    for name, count in (("eft_problems", eft), ("problems", problems), ("held_out", held_out)):
        rows = [
            {"id": f"{name}-{i:05d}", "question": question, "answer": str(correct_answer(question))}
            for i, question in enumerate(new_question() for _ in range(count))
        ]
        write_rows(folder / f"{name}.jsonl", rows)
