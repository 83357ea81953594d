"""Seconds and peak memory of cutting solutions into steps by rule.

    python benchmarks/cut_solutions.py --rows 10000,100000 --json cut_solutions.json

Solutions of four styles (numbered, paragraphs, lines, sentences), about 600 characters each, are cut, checked
and written by `stepagent data ift`, each size in a process of its own.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from _bench import make_config, make_parser, measure_apart, peak_mib, write_figures

from stepagent.assembly.session import Session
from stepagent.data.ift import Columns, make_ift
from stepagent.files.jsonl import write_rows


def solution(rng: random.Random) -> str:
    """Return eight steps in one of the styles."""
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
    """Return the seconds for `size` solutions drawn by `seed`, and the peak MiB of this process."""
    rows, rng = int(size), random.Random(int(seed))
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        write_rows(folder / "s.jsonl", ({"question": f"q{i}", "solution": solution(rng)} for i in range(rows)))
        with Session(make_config("{{model: none, problems: none.jsonl}}"), folder / "out") as session:
            start = time.perf_counter()
            make_ift(session, str(folder / "s.jsonl"), Columns())
            seconds = time.perf_counter() - start
    return seconds, peak_mib()


def main() -> None:
    options = make_parser(__doc__, rows="10000,100000").parse_args()
    figures = {}
    for size in options.rows.split(","):
        seconds, peak = measure_apart("cut_solutions", size, str(options.seed))
        figures[size] = {"seconds": seconds, "peak_mib": peak}
        print(f"{int(size):>9,} solutions: {seconds:.1f} s, {peak:.0f} MiB", flush=True)
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
