"""A judge section tuned on some labelled pairs and measured on others, from a start that is poor.

    python benchmarks/judge_tuning.py --json demo.json
    python benchmarks/judge_tuning.py --model SmolLM2-135M-Instruct --data gsm8k_model_solutions.jsonl --json gsm8k.json

Without a model: M_1 of the demo, asked in a prompt that it never saw, on `--pairs` pairs of the demo's held-out
problems. With one (`python benchmarks/smollm2.py DIR` makes it): `--data` are questions with several models' solutions
and whether each is right, as openai/grade-school-math publishes them; a pair is a right and a wrong solution of one
question, the right one first in every second pair, together with the question no longer than `--longest` characters.
The start is the config's default judge, with replies of at most `--max-tokens`. All figures are `stepagent judge
--tune`'s own.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _bench import make_config, make_parser, write_figures

from stepagent.api import tune_judge
from stepagent.config.component import Component
from stepagent.config.settings import Config
from stepagent.console import claim_terminal
from stepagent.demo.run import demo_config, make_data
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.models.folders import unless_made
from stepagent.stages.train import initialize
from stepagent.types import StepPair

POOR = """---
labels: {first: "[[A]]", second: "[[B]]", tie: "[[C]]"}
---
{question}
|A {prefix}{first}
|B {prefix}{second}
"""
CONFIG = """
model: "{model}"
seed: {seed}
problems: none
concurrency: 64
judge: {{kind: pairwise, max_tokens: {max_tokens}}}
"""


def solution_pairs(path: Path, longest: int) -> Iterator[StepPair]:
    """Yield a right and a wrong solution of every question that has both, without the calculator's marks; together
    with the question they have at most `longest` characters."""
    right_is_first = False
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        solutions = [value for value in row.values() if isinstance(value, dict)]
        texts = [
            next((_plain(value["solution"]) for value in solutions if value["is_correct"] is label), None)
            for label in (True, False)
        ]
        if texts[0] is not None and texts[1] is not None and len(row["question"] + texts[0] + texts[1]) <= longest:
            right_is_first = not right_is_first
            pair = StepPair(row["question"], (), texts[0], second=texts[1], winner="first")
            yield pair if right_is_first else pair.swapped()


def _plain(solution: str) -> str:
    return re.sub(r"<<.*?>>", "", solution)


def demo_start(folder: Path, seed: int) -> tuple[Config, list[StepPair]]:
    """Make M_1 of the demo. Returns its config with a poor prompt, and pairs of problems that it never saw."""
    config = demo_config(folder, [f"seed={seed}", "eft.test_share=0.25"])
    make_data(config, folder)
    init, model = config.init, folder / "M_1"
    assert init
    unless_made(model, lambda: initialize(config, init, model))
    prompt = folder / "poor.md"
    prompt.write_text(POOR)
    judge = Component(kind="pairwise", params={"prompt": str(prompt), "max_tokens": 64})
    pairs = read_rows(folder / "data" / "eft" / "test.jsonl", StepPair)
    return config.model_copy(update={"model": str(model), "judge": judge}), pairs


def main() -> None:
    parser = make_parser(__doc__, pairs=150, budget=2000, max_tokens=160, longest=2000)
    parser.add_argument("--model", type=Path, help="a model folder (default: M_1 of the demo, which is made)")
    parser.add_argument("--data", type=Path, help="with --model: solutions of several models")
    parser.add_argument("--work", type=Path, help="keep the verdicts here (continued if they exist)")
    options = parser.parse_args()
    if (options.model is None) != (options.data is None):
        parser.error("give --model and --data together, or neither")
    claim_terminal()
    work = options.work or Path(tempfile.mkdtemp(prefix="judge_tuning_"))
    if options.model:
        config = make_config(CONFIG, model=options.model, seed=options.seed, max_tokens=options.max_tokens)
        pairs = list(solution_pairs(options.data, options.longest))
    else:
        config, pairs = demo_start(work / "demo", options.seed)
    sample = random.Random(options.seed).sample(pairs, min(options.pairs, len(pairs)))
    write_rows(work / "pairs.jsonl", [asdict(pair) for pair in sample])
    tuning: dict[str, Any] = tune_judge(config, str(work / "pairs.jsonl"), work / "tuned", budget=options.budget)
    held_out = tuning["pairs"]["held_out"]
    errors = {name: held_out - right for name, right in tuning["held_out"].items()}
    print(f"errors on {held_out} held-out pairs: {errors['own']} before, {errors['chosen']} after")
    write_figures(options.json, {**tuning, "errors": errors})


if __name__ == "__main__":
    main()
