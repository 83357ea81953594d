"""The arithmetic world's files: IFT and EFT sets, problems for the rounds, held-out problems and pairs."""

from __future__ import annotations

import random
from pathlib import Path

from stepagent.demo.world import (
    MarkedPair,
    correct_answer,
    make_pair,
    make_question,
    quick_solution,
)
from stepagent.jsonl import write_rows


def write_data(
    folder: Path, seed: int, *, ift: int, eft: int, problems: int, held_out: int, pairs: int
) -> None:
    """Write ift.jsonl, eft.jsonl (each pair in both seats), problems.jsonl, held_out.jsonl and
    pairs.jsonl with so many rows. No question is in two of them. Slips are in IFT as people make them;
    EFT judgements are a careful marker's."""
    rng = random.Random(seed)
    used: set[str] = set()

    def question() -> str:
        while (made := make_question(rng)) in used:
            pass
        used.add(made)
        return made

    solutions: list[dict[str, object]] = []
    while len(solutions) < ift:
        asked = question()
        if lines := quick_solution(rng, asked):
            solutions.append({"question": asked, "steps": _as_steps(lines)})
    write_rows(folder / "ift.jsonl", solutions)
    marked = [make_pair(rng, question()) for _ in range(eft // 2)]
    both = [row for pair in marked for row in (pair, pair.swapped())]
    write_rows(folder / "eft.jsonl", [_eft_row(pair) for pair in both])
    write_rows(folder / "pairs.jsonl", [_eft_row(make_pair(rng, question())) for _ in range(pairs)])
    for name, count in (("problems", problems), ("held_out", held_out)):
        asked_all = [question() for _ in range(count)]
        rows = [
            {"id": f"{name}-{i:05d}", "question": asked, "answer": str(correct_answer(asked))}
            for i, asked in enumerate(asked_all)
        ]
        write_rows(folder / f"{name}.jsonl", rows)


def _as_steps(lines: list[str]) -> list[str]:
    return [f"{line}\n" for line in lines[:-1]] + lines[-1:]


def _eft_row(pair: MarkedPair) -> dict[str, object]:
    return {
        "question": pair.question,
        "prefix": [f"{line}\n" for line in pair.prefix],
        "first": pair.first,
        "second": pair.second,
        "judgement": pair.judgement,
        "winner": pair.winner,
    }
