"""Seconds, peak memory and size of a report, and of the live view's answers: memory must not grow with the run.

    python benchmarks/report.py --trees 1000,10000 --json report.json

A round of trees with `--levels` levels of `--width` steps is written; every pair of steps is judged in both positions,
with words. Each size is a process of its own. Reading the file is validating its trees, and nothing else: the ratio
says what the report costs beside it. The list is `stepagent show --list --where disagree`. `stepagent view` is another
process: its page of the trees whose positions disagree and one whole tree are asked for over HTTP, medians of 20.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

from _bench import make_parser, measure_apart, peak_mib, write_figures

from stepagent.files.jsonl import write_rows
from stepagent.report.listing import listed
from stepagent.report.page import write_report
from stepagent.report.reading import Gaps
from stepagent.report.reading import trees as read_trees
from stepagent.tree import StepTree
from stepagent.types import Candidate, Problem, Step, Usage, Verdict, Vote


def judged_trees(count: int, levels: int, width: int, *, seed: int) -> Iterator[StepTree]:
    """Yield trees whose steps and judgements are sentences; in one level of twenty the positions disagree."""
    rng = random.Random(seed)
    for number in range(count):
        tree = StepTree(Problem(f"p{number}", f"What is {number} times {rng.randrange(1000)}?"), status="ended")
        for depth in range(levels):
            texts = [f"Step {depth + 1}: we take {rng.randrange(10**6)} and add {i} to it.\n" for i in range(width)]
            ends = depth == levels - 1
            steps = [Step(text, text.strip(), "stop", ends, tuple(range(20)), -rng.random()) for text in texts]
            level = tree.add(tree.path[-1] if tree.path else None, tuple(Candidate(step) for step in steps))
            level.judged, level.chosen = level.nodes, level.nodes[0]
            blind = rng.random() < 0.05
            votes = tuple(
                Vote(a, b, "first" if blind or a < b else "second", f"Both add; {rng.randrange(10**6)} is right. [[A]]")
                for a, b in permutations(range(width), 2)
            )
            scores = tuple(float(width - i) for i in range(width))
            level.verdict = Verdict("ok", scores, 0, worst=width - 1, margin=0.5 + rng.random() / 2, votes=votes)
            tree.path.append(level.nodes[0])
        tree.usage, tree.seconds = Usage(100, 20_000, 4_000), 3.0
        yield tree


def measure(count: str, levels: str, width: str, seed: str) -> tuple[float, ...]:
    """Return the seconds of reading, of the report and of a list, the MiB of both files, and the peak MiB."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        path = folder / "trees.jsonl"
        write_rows(path, judged_trees(int(count), int(levels), int(width), seed=int(seed)))
        start = time.perf_counter()
        assert sum(1 for _ in read_trees(path, Gaps())) == int(count)
        reading = time.perf_counter() - start
        start = time.perf_counter()
        report = write_report(folder)
        writing = time.perf_counter() - start
        start = time.perf_counter()
        assert sum(1 for _ in listed(folder, ["disagree"])) > 1
        listing = time.perf_counter() - start
        view = view_answers(folder)
        sizes = [file.stat().st_size / 2**20 for file in (path, report)]
        return (reading, writing, listing, *view, *sizes, peak_mib())


def view_answers(folder: Path) -> tuple[float, float, float, float]:
    """Start `stepagent view`. Return the seconds until it answers, the medians over HTTP of a page of its list and of a
    tree, and its peak memory (MiB)."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "stepagent", "view", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        match = re.search(r"http://\S+", process.stdout.readline())
        assert match, "stepagent view has ended"
        get(match[0] + "list?size=1")
        seconds = time.perf_counter() - start
        pages, trees = [], []
        for number in range(20):
            start = time.perf_counter()
            page = get(f"{match[0]}list?filter=disagree&order=margin&first={60 * number}&size=60")
            pages.append(time.perf_counter() - start)
            tree = page["trees"][0]["number"] if page["trees"] else 1
            start = time.perf_counter()
            assert get(f"{match[0]}trees?number={tree}")
            trees.append(time.perf_counter() - start)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.terminate()
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    return seconds, statistics.median(pages), statistics.median(trees), int(peak[1]) / 1024 if peak else 0.0


def get(address: str) -> Any:
    """Return the JSON at an address."""
    with urllib.request.urlopen(address) as reply:
        return json.load(reply)


NAMES = (
    "read_seconds",
    "report_seconds",
    "list_seconds",
    "view_seconds",
    "view_page_seconds",
    "view_tree_seconds",
    "view_peak_mib",
    "trees_mib",
    "report_mib",
    "peak_mib",
)


def main() -> None:
    parser = make_parser(__doc__, trees="1000,10000", levels=8, width=4)
    options = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for size in options.trees.split(","):
        shape = [str(value) for value in (options.levels, options.width, options.seed)]
        figures[size] = row = dict(zip(NAMES, measure_apart("report", size, *shape), strict=True))
        row["report_over_reading"] = row["report_seconds"] / row["read_seconds"]
        print(
            f"{int(size):>7,} trees, {row['trees_mib']:.0f} MiB: report in {row['report_seconds']:.1f} s, "
            f"{row['report_over_reading']:.2f} times reading them; {row['report_mib']:.1f} MiB; "
            f"list in {row['list_seconds']:.1f} s; view: {row['view_seconds']:.1f} s, then over HTTP a page in "
            f"{1000 * row['view_page_seconds']:.1f} ms and a tree in {1000 * row['view_tree_seconds']:.1f} ms, "
            f"{row['view_peak_mib']:.0f} MiB; "
            f"peak {row['peak_mib']:.0f} MiB",
            flush=True,
        )
    peaks = [row["peak_mib"] for row in figures.values()]
    print(f"memory, last over first size: {peaks[-1] / peaks[0]:.2f}")
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
