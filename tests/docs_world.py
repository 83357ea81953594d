"""The files that the commands of the docs name, small: a folder in which every command block can be run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from stepagent.config.prompts import JudgePrompt
from stepagent.demo.data import write_data
from stepagent.judges.comparisons import Comparisons
from stepagent.judges.random import RandomJudge

CONFIG = """
name: my-run
model: "{base}"
rounds: 1
problems: problems.jsonl
backend: {{kind: transformers, max_rows: 64}}
generator: {{prompt: demo_solve, boundary: line, max_tokens: 12}}
judge: {{kind: "docs_world:Coin"}}
search: {{width: 2, max_iterations: 3}}
eft:
  pairs: pairs.jsonl
  teacher: {{prompt: demo_judge, max_tokens: 64, backend: {{kind: "stepagent.demo.oracle:Marker"}}}}
init: {{ift: ift/ift.jsonl, eft: eft/eft.jsonl, lora: null, epochs: 1, batch_size: 16, token_budget: 512}}
optimize: {{learning_rate: 1.0e-4, batch_size: 8, token_budget: 512, lora: {{rank: 2, alpha: 4}}}}
watch: {{problems: 0}}
evaluate: {{problems: held_out.jsonl, pairs: pairs.jsonl, search_problems: 2, max_tokens: 12}}
"""
"""The demo's world with a judge that asks nobody: the commands are the user's, the work takes seconds."""


class Coin(RandomJudge):
    """Judge that asks nobody, in the words of the world's teacher."""

    def __init__(self, prompt: JudgePrompt = "demo_judge", comparisons: Comparisons = "all_pairs") -> None:
        super().__init__(comparisons)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_world(folder: Path, base: Path) -> None:
    """Write configs, problems, solutions, labelled pairs and foreign rows for the model in `base`."""
    write_data(folder, 0, solutions=30, eft=1, problems=6, held_out=4)
    solved = [json.loads(line) for line in (folder / "solutions.jsonl").read_text().splitlines()]
    lines = [row["solution"].splitlines() for row in solved]
    write_rows(
        folder / "solutions.jsonl",
        [
            {**row, "problem": row["question"], "answer": steps[-1].lstrip("=")}
            for row, steps in zip(solved, lines, strict=True)
        ],
    )
    pairs = [
        {"question": row["question"], "prefix": [], "first": f"{steps[0]}\n", "second": f"{steps[0]}0\n"}
        for row, steps in zip(solved, lines, strict=True)
    ]
    write_rows(folder / "pairs.jsonl", [{**pair, "winner": "first"} for pair in pairs])
    write_rows(
        folder / "candidates.jsonl",
        [
            {"question": pair["question"], "prefix": [], "candidates": [pair["first"], pair["second"]]}
            for pair in pairs[:3]
        ],
    )
    write_rows(
        folder / "prm800k.jsonl",
        [
            {
                "question": {"problem": "1+1?"},
                "label": {
                    "finish_reason": "solution",
                    "steps": [
                        {
                            "completions": [{"text": "2", "rating": 1}, {"text": "3", "rating": -1}],
                            "chosen_completion": 0,
                        }
                    ],
                },
            }
        ],
    )
    for name, seed in (("config", 0), ("other", 1)):
        (folder / f"{name}.yaml").write_text(f"seed: {seed}{CONFIG.format(base=base)}")
