"""Hostile text: nothing in a step, a reply, a question, an id or a setting becomes markup, script, style or a load."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from stepagent.report.page import write_report
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


def hostile_run(run: Path, text: str) -> None:
    """Put the text wherever a model, a server or a data file may put one, beside those that are there."""
    tree = StepTree(Problem(text, text), status="failed", error=text)
    steps = [Step(text + number, text + number, "stop", ends=False) for number in "12"]
    level = tree.add(None, (Candidate(steps[0]), Candidate(steps[1], flaws=("runaway",))))
    level.judged = level.nodes
    votes = (Vote(0, 1, "first", text), Vote(1, 0, "first", text))
    level.verdict = Verdict("no_signal", (0.0, 0.0), votes=votes, error=text)
    item = {"index": 0, "right": False, "verdicts": [{"votes": [{"first": 0, "outcome": text, "reply": text}]}]}
    pair = {"question": text, "prefix": [text], "first": text, "second": text + "!", "winner": "first"}
    for name, row in (
        ("round_1/trees.jsonl", asdict(tree)),
        ("evaluation/M_1/pairs.jsonl", item),
        ("labelled.jsonl", pair),
    ):
        with (run / name).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def change(name: str, key: str, value: object) -> None:
        content = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps({**content, key: value}))

    change("data/eft/funnel.json", text, 1)
    change("round_1/optimize.json", "warnings", [text])
    change("summary.json", "drifted", {"M_3": [text]})
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    change("manifest.json", "stages", {**stages, text: {"seconds": 1, "inputs": {text: text}}})
    with (run / "config.yaml").open("a") as config:
        config.write(f"# {text.encode('unicode_escape').decode()}\n# <script>window.hacked = 1</script>\n")


def test_no_attack_becomes_markup(run: Path, tables: Callable[[Path], Any]) -> None:
    calm = tables(write_report(run, run / "calm.html"))
    for text in ATTACKS:
        hostile_run(run, text)
    page = tables(write_report(run, run / "hostile.html"))
    assert "<script>window.hacked = 1</script>" in page.text, "an attack is there to be read"
    own_tags = {tag for tag, _ in calm.tags} | {"aside", "ul"}  # of the list of things that are left out
    assert {tag for tag, _ in page.tags} <= own_tags
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "tree-data"}, {}]
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("style", "src", "action", "srcdoc")]
    for tag, attributes in page.tags:
        target = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert target.startswith("#"), (tag, attributes)
    raw = (run / "hostile.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u200f]", raw)


def test_the_policy_allows_the_page_s_own_style_and_script_and_nothing_else(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].replace("&#39;", "'").split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    blocks = {"style-src": re.findall(r"<style>(.*?)</style>", page, re.DOTALL)}
    blocks["script-src"] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert rules.keys() == blocks.keys()
    for name, (block,) in blocks.items():
        assert rules[name] == f"'sha256-{base64.b64encode(sha256(block.encode()).digest()).decode()}'"
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_the_script_is_small_and_writes_no_markup() -> None:
    import stepagent.report.page

    script = (Path(stepagent.report.page.__file__).parent / "templates" / "report.js").read_text()
    assert len(script.splitlines()) < 400
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert danger not in script
