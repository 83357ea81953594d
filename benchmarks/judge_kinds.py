"""Four kinds of judge on the arithmetic world, by one small model that was taught all their ways.

    python benchmarks/judge_kinds.py --json judge_kinds.json

M_0 of the demo is trained (SFT) on solutions and on the same marked pairs written in three ways: worked out
and then judged (pairwise), judged at once (logprob), and each line graded on its own (pointwise). Then every
kind judges `--pairs` held-out pairs of a right and a wrong line; the panel asks all three. Figures are
`stepagent judge --evaluate`'s own.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from _bench import WarningMonitor, make_parser, write_figures

from stepagent.assembly.session import Session
from stepagent.config.component import Component
from stepagent.config.prompts import comparison_values, load_judge_prompt, load_rubric_prompt
from stepagent.config.settings import Config
from stepagent.demo.run import demo_config, make_data
from stepagent.demo.world import FIRST, SECOND, compare, correct_line, next_operation, result, worked
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.stages.measure_judge import measure_judge
from stepagent.stages.train import sft_rows
from stepagent.training.sft import SftRow, sft
from stepagent.types import ModelVersion, StepPair

PAIRWISE = {"kind": "pairwise", "prompt": "demo_judge", "max_tokens": 64}
LOGPROB = {"kind": "logprob", "prompt": "demo_logprob"}
POINTWISE = {"kind": "pointwise", "prompt": "demo_pointwise", "max_tokens": 64}
KINDS: dict[str, dict[str, Any]] = {
    "pairwise with rationale": PAIRWISE,
    "log-probabilities": LOGPROB,
    "pointwise": POINTWISE,
    "panel of the three": {"kind": "panel", "judges": [PAIRWISE, LOGPROB, POINTWISE]},
}


def grade(row: StepPair, line: str) -> str:
    """Write one line's sum worked out, its value compared, and 1 or 0 behind the mark."""
    prefix = [text.rstrip("\n") for text in row.prefix]
    right = correct_line(row.question, prefix)
    operation = next_operation(row.question, prefix)
    expected = result(right)
    opening = worked(operation) if operation else f"={expected}>{expected}"
    assert expected is not None
    return f"{opening}\n{compare('A', result(line), expected)}>>{int(result(line) == expected)}"


def rewrite(pairs: list[StepPair]) -> list[SftRow]:
    """Write the marked pairs as verdicts without words, and as grades of each line."""
    at_once, _ = load_judge_prompt("demo_logprob")
    rubric, _ = load_rubric_prompt("demo_pointwise")
    rows = []
    for pair in pairs:
        prefix = "".join(pair.prefix)
        if pair.winner in ("first", "second"):
            values = comparison_values(pair.question, prefix, pair.first, second=pair.second)
            rows.append(SftRow(at_once.messages(values), FIRST if pair.winner == "first" else SECOND))
        values = {"question": pair.question, "prefix": prefix, "step": pair.first}
        rows.append(SftRow(rubric.messages(values), grade(pair, pair.first)))
    return rows


def measure(config: Config, model: Path, kind: dict[str, Any], *, data: Path, folder: Path) -> dict[str, Any]:
    """Return the figures of one judge."""
    with Session(config.model_copy(update={"judge": Component(**kind)}), folder) as session:
        measure_judge(session, ModelVersion.at(str(model)), str(data), sample=None, out=folder)
    figures: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return figures


def main() -> None:
    options = make_parser(__doc__, pairs=1000, test_share=0.25).parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        config = demo_config(folder, [f"seed={options.seed}", f"eft.test_share={options.test_share}"])
        make_data(config, folder)
        assert config.init
        assert config.init.eft is not None
        rows = sft_rows(config, config.init) + rewrite(read_rows(config.init.eft, StepPair))
        model = folder / "M_1"
        sft(config.model, rows, model, settings=config.init, seed=config.seed, monitor=WarningMonitor())
        tests = read_rows(folder / "data" / "eft" / "test.jsonl", StepPair)
        labelled = [pair for pair in tests if pair.winner != "tie"]
        data = folder / "labelled.jsonl"
        write_rows(data, labelled[: options.pairs])
        figures = {
            name: measure(config, model, kind, data=data, folder=folder / kind["kind"]) for name, kind in KINDS.items()
        }
    print(f"\n{'':26}{'right':>24}{'both agree':>24}{'first pos.':>12}{'tokens/verdict':>16}")
    for name, row in figures.items():
        print(
            f"{name:26}{row['right (in both positions)']:>24}{row.get('both positions agree', '–'):>24}"
            f"{row.get('first position preferred', '–'):>12}{row['sampled tokens per verdict']:>16.1f}"
        )
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
