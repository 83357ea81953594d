"""Hostile text: nothing in a step, a reply, a question, an id or a setting becomes markup, script, style or a load."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from attacks import ATTACKS

from stepagent.report.page import write_report


def test_no_attack_becomes_markup(
    run: Path, tables: Callable[[Path], Any], hostile_run: Callable[[Path], None]
) -> None:
    calm = tables(write_report(run, run / "calm.html"))
    hostile_run(run)
    page = tables(write_report(run, run / "hostile.html"))
    own_script = page.text.index('"use strict";')
    for attack in ATTACKS[:8]:
        # a funnel, a warning, a drift, a stage and its file, the config, and an item of the judge: question, prefix,
        # two steps, a reply and the outcome
        assert page.text.count(attack, 0, own_script) >= 10, "an attack is there to be read"
    for gap in ("its figures are left out", "cannot be shown", "not a config", "not readable"):
        assert gap not in page.text, "no file is left out as a whole"
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


def test_the_scripts_are_small_and_write_no_markup() -> None:
    import stepagent.report.page

    folder = Path(stepagent.report.page.__file__).parent / "templates"
    scripts = {path.name: path.read_text() for path in folder.glob("*.js")}
    assert sum(len(script.splitlines()) for script in scripts.values()) < 400
    for name, script in scripts.items():
        for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
            assert danger not in script
        assert ("fetch(" in script) == (name == "live.js")
