"""Four kinds of judge on the arithmetic world, by one small model that was taught all their ways.

    python benchmarks/judge_kinds.py --json judge_kinds.json

M_0 of the demo is trained (SFT) on solutions and on the same marked pairs written in three ways: worked out
and then judged (pairwise), judged at once (logprob), and each line graded on its own (pointwise). Then every
kind judges `--pairs` held-out pairs of a right and a wrong line; the panel asks all three. Figures are
`stepagent judge --evaluate`'s own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from stepagent.assembly.components import make_components
from stepagent.assembly.session import Resources
from stepagent.config.prompts import load_judge_prompt, load_rubric_prompt
from stepagent.config.settings import Component, Config
from stepagent.demo.run import demo_config, make_data
from stepagent.demo.world import FIRST, SECOND, compare, correct_line, next_operation, result, worked
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.files.labelled_rows import read_labelled
from stepagent.files.rows import EftRow
from stepagent.optimize.sft import SftRow, sft
from stepagent.stages.measure_judge import quality_stage
from stepagent.stages.train import sft_rows

PAIRWISE = {"kind": "pairwise", "prompt": "demo_judge", "max_tokens": 64}
LOGPROB = {"kind": "logprob", "prompt": "demo_logprob"}
POINTWISE = {"kind": "pointwise", "prompt": "demo_pointwise", "max_tokens": 64}
KINDS: dict[str, dict[str, Any]] = {
    "pairwise with rationale": PAIRWISE,
    "log-probabilities": LOGPROB,
    "pointwise": POINTWISE,
    "panel of the three": {"kind": "panel", "judges": [PAIRWISE, LOGPROB, POINTWISE]},
}


def graded(row: EftRow, line: str) -> str:
    """One line's sum worked out, its value compared, and 1 or 0 behind the mark."""
    prefix = [text.rstrip("\n") for text in row.prefix]
    right = correct_line(row.question, prefix)
    operation = next_operation(row.question, prefix)
    expected = result(right)
    opening = worked(operation) if operation else f"={expected}>{expected}"
    assert expected is not None
    return f"{opening}\n{compare('A', result(line), expected)}>>{int(result(line) == expected)}"


def more_rows(rows: list[EftRow]) -> list[SftRow]:
    """The marked pairs as verdicts without words, and as grades of each line."""
    at_once, _ = load_judge_prompt("demo_logprob")
    rubric, _ = load_rubric_prompt("demo_pointwise")
    made = []
    for row in rows:
        if row.winner in ("first", "second"):
            made.append(SftRow(at_once.messages(row.values()), FIRST if row.winner == "first" else SECOND))
        values = {"question": row.question, "prefix": "".join(row.prefix), "step": row.first}
        made.append(SftRow(rubric.messages(values), graded(row, row.first)))
    return made


def measured(config: Config, model: Path, name: str, data: Path, folder: Path) -> dict[str, Any]:
    """The figures of one judge."""
    judged = config.model_copy(update={"judge": Component(**KINDS[name])})
    with Resources(judged, folder) as resources:
        components = make_components(judged, str(model), resources)
        quality_stage(components, judged, read_labelled(data, None, 0), name, folder)
    figures: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--test-share", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        config = demo_config(folder, [f"seed={arguments.seed}", f"eft.test_share={arguments.test_share}"])
        make_data(config, folder)
        assert config.init
        assert config.init.eft is not None
        rows = sft_rows(config, config.init) + more_rows(read_rows(config.init.eft, EftRow))
        model = folder / "M_1"
        sft(config.model, rows, model, config.init, config.seed, lambda *_: None, print)
        tests = read_rows(folder / "data" / "eft" / "test.jsonl", EftRow)
        labelled = [row for row in tests if row.winner != "tie"]
        data = folder / "labelled.jsonl"
        write_rows(data, labelled[: arguments.pairs])
        figures = {name: measured(config, model, name, data, folder / kind["kind"]) for name, kind in KINDS.items()}
    print(f"\n{'':26}{'right':>24}{'both agree':>24}{'first pos.':>12}{'tokens/verdict':>16}")
    for name, row in figures.items():
        print(
            f"{name:26}{row['right (in both positions)']:>24}{row.get('both positions agree', '–'):>24}"
            f"{row.get('first position preferred', '–'):>12}{row['sampled tokens per verdict']:>16.1f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
