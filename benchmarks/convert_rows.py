"""Seconds and peak memory of imports and exports: memory must not grow with the rows.

    python benchmarks/convert_rows.py --rows 10000,1000000 --json convert_rows.json

Preferences of about 0.5 kB are exported for TRL (conversational) and those rows imported as labelled pairs;
trees of six judged steps are exported for process reward models. Each size and direction is a process of its
own; the ratio is that of the peak memories of the largest and the smallest size. Nothing is drawn: --seed changes
nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from _bench import make_parser, measure_apart, peak_mib, write_figures

from stepagent.data.convert import export_rows, import_rows
from stepagent.files.jsonl import write_rows
from stepagent.testing import text_preference
from stepagent.tree import StepTree
from stepagent.types import Candidate, Problem, Step, StepPreference, Verdict


def preferences(rows: int) -> Iterator[StepPreference]:
    """Yield pairs of steps after three others."""
    for i in range(rows):
        prefix = tuple(f"Step {n}: we add {i} and {n}, which gives {i + n}.\n" for n in range(1, 4))
        yield text_preference(
            f"<|user|>What is {i}?<|assistant|>{''.join(prefix)}",
            f"Step 4: so it is {i}.\n",
            f"Step 4: so it is {i + 1}.\n",
            question=f"What is {i}?",
            prefix=prefix,
            problem_id=str(i),
            depth=4,
        )


def trees(rows: int) -> Iterator[StepTree]:
    """Yield trees of six levels with two judged steps each."""
    for i in range(rows):
        tree = StepTree(Problem(str(i), f"What is {i}?"), status="ended")
        parent = None
        for depth in range(6):
            texts = (f"{i} and {depth}\n", f"{i} or {depth}\n")
            level = tree.add(parent, tuple(Candidate(Step(t, t.strip(), "stop", ends=False)) for t in texts))
            level.judged = level.nodes
            level.verdict = Verdict("ok", (0.9, 0.1), 0, worst=1, margin=0.9, values=(0.9, 0.1))
            parent = level.chosen = level.nodes[0]
            tree.path.append(parent)
        yield tree


def measure(kind: str, size: str) -> tuple[float, float]:
    """Return the seconds of one conversion of `size` rows, and the peak MiB of this process."""
    rows = int(size)
    with tempfile.TemporaryDirectory() as work:
        source, middle, out = (Path(work) / name for name in ("in.jsonl", "trl.jsonl", "out.jsonl"))
        write_rows(source, trees(rows) if kind == "trees for prm" else preferences(rows))
        if kind == "import of TRL rows":
            export_rows(source, "trl-conversational", "", out=middle)
        start = time.perf_counter()
        if kind == "trees for prm":
            export_rows(source, "prm", None, out=out)
        elif kind == "preferences for TRL":
            export_rows(source, "trl-conversational", "", out=out)
        else:
            import_rows(str(middle), "pairs", out)
        seconds = time.perf_counter() - start
    return seconds, peak_mib()


KINDS = ("preferences for TRL", "import of TRL rows", "trees for prm")


def main() -> None:
    parser = make_parser(__doc__, rows="10000,1000000")
    parser.add_argument("--trees", default="1000,100000", help="sizes of the tree files")
    options = parser.parse_args()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for kind in KINDS:
        figures[kind] = {}
        for size in (options.trees if kind == "trees for prm" else options.rows).split(","):
            seconds, peak = measure_apart("convert_rows", kind, size)
            figures[kind][size] = {"seconds": seconds, "peak_mib": peak}
            print(f"{kind:20} {int(size):>9,} rows: {seconds:.1f} s, {peak:.0f} MiB", flush=True)
        peaks = [row["peak_mib"] for row in figures[kind].values()]
        print(f"{kind:20} memory, last over first size: {peaks[-1] / peaks[0]:.2f}")
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
