"""Seconds and peak memory of cutting solutions into steps by rule.

    python benchmarks/cut_solutions.py --rows 10000,100000 --json cut_solutions.json

Solutions of four styles (numbered, paragraphs, lines, sentences), about 600 characters each, are cut, checked
and written by `stepagent data ift`, each size in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from own_process import measured

from stepagent.config.loading import load_config
from stepagent.data.ift import Columns, ift_stage
from stepagent.files.jsonl import write_rows


def solution(rng: random.Random) -> str:
    """Eight steps in one of the styles."""
    steps = [
        f"We add {rng.randrange(999)} and {rng.randrange(999)}, which gives {rng.randrange(1999)} as $x_{i}$."
        for i in range(8)
    ]
    joined = [
        "\n".join(f"Step {i}: {text}" for i, text in enumerate(steps, start=1)),
        "\n\n".join(steps),
        "\n".join(steps),
        " ".join(steps),
    ]
    return rng.choice(joined)


def measure(size: str, seed: str) -> tuple[float, float]:
    """Seconds for `size` solutions drawn by `seed`, and peak MiB of this process."""
    rows, rng = int(size), random.Random(int(seed))
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        write_rows(folder / "s.jsonl", ({"question": f"q{i}", "solution": solution(rng)} for i in range(rows)))
        (folder / "c.yaml").write_text("model: none\nproblems: none.jsonl\n")
        config = load_config(folder / "c.yaml")
        start = time.perf_counter()
        ift_stage(config, str(folder / "s.jsonl"), Columns(), False, "none", folder / "out")
        seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", default="10000,100000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    figures = {}
    for size in asked.rows.split(","):
        seconds, peak = measured("cut_solutions", size, str(asked.seed))
        figures[size] = {"seconds": seconds, "peak_mib": peak}
        print(f"{int(size):>9,} solutions: {seconds:.1f} s, {peak:.0f} MiB", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
