"""Hostile texts, and their way into every file of a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from stepagent.tree import StepTree
from stepagent.types import Candidate, Problem, Step, Verdict, Vote

ATTACKS = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    "<!--<script>",
    "]]><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload=window.hacked=1><use href='data:x'/></svg>",
    "<iframe srcdoc='<script>parent.hacked = 1</script>'></iframe>",
    "<style>body { display: none }</style>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<base href='http://127.0.0.1:9/'>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<form action=http://127.0.0.1:9/><input autofocus onfocus=window.hacked=1></form>",
    "javascript:window.hacked=1",
    "{{ 7 * 7 }}{% for x in y %}",
    "${window.hacked = 1}",
    "'\"><b onmouseover=window.hacked=1>x</b>",
    "&lt;script&gt;&#60;script&#62;",
    "\u2028</div></main></body></html>",
    "\x1b]0;owned\x07\x1b[2J\x9b31m",
    "\u202eevil\u2066\u200f",
    "\ud800 half",
    "__proto__",
    "$\\frac{1}{2}$ \\href{javascript:alert(1)}{x}",
]


def put_into(run: Path, text: str) -> None:
    """Put the text wherever a model, a server or a data file may put one, beside those that are there."""
    tree = StepTree(Problem(text, text), status="failed", error=text)
    steps = [Step(text + number, text + number, "stop", ends=False) for number in "12"]
    level = tree.add(None, (Candidate(steps[0]), Candidate(steps[1], flaws=("runaway",))))
    level.judged = level.nodes
    votes = (Vote(0, 1, "first", text), Vote(1, 0, "first", text))
    level.verdict = Verdict("no_signal", (0.0, 0.0), votes=votes, error=text)
    item = {
        "index": 3 + ATTACKS.index(text),
        "right": False,
        "verdicts": [{"votes": [{"first": 0, "outcome": text, "reply": text}]}],
    }
    whole = text.encode(errors="replace").decode()
    pair = {"question": whole, "prefix": [whole], "first": whole, "second": whole + "!", "winner": "first"}
    for name, row in (
        ("round_1/trees.jsonl", asdict(tree)),
        (f"evaluation/M_{ATTACKS.index(text) % 3 + 1}/pairs.jsonl", item),  # a report shows ten of each model
        ("labelled.jsonl", pair),
    ):
        with (run / name).open("a") as file:
            file.write(json.dumps(row) + "\n")

    if text != whole:
        return  # half a character makes a whole file unreadable, which would hide the other attacks in it

    def change(name: str, key: str, value: object) -> None:
        content = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps({**content, key: value}))

    change("data/eft/funnel.json", text, 1)
    change(
        "round_1/optimize.json",
        "warnings",
        [*json.loads((run / "round_1/optimize.json").read_text())["warnings"], text],
    )
    drifted = json.loads((run / "summary.json").read_text())["drifted"]
    change("summary.json", "drifted", {"M_3": [*drifted["M_3"], text]})
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    change("manifest.json", "stages", {**stages, text: {"seconds": 1, "inputs": {text: text}}})
    with (run / "config.yaml").open("a") as config:
        config.write(f"attack{config.tell()}: {json.dumps(text)}\n")
