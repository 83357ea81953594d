"""A small run on disk, written by hand: two rounds, three models, every kind of level; and a page's tables as texts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from attacks import ATTACKS, put_into
from browsing import headless_chromium
from selenium import webdriver

from stepagent.files.jsonl import dump_row
from stepagent.testing import step
from stepagent.tree import Level, StepTree
from stepagent.types import Candidate, Problem, Usage, Verdict, Vote

Verdicts = tuple[str, str]
"""The outcomes of a vote with the first candidate first, and of one with the second candidate first."""
AGREE: Verdicts = ("first", "second")
DISAGREE: Verdicts = ("first", "first")


def add_level(tree: StepTree, texts: tuple[str, str], votes: Verdicts, **fields: Any) -> Level:
    """Add a judged level of two candidates, of which the first is followed."""
    candidates = tuple(Candidate(replace(step(text, ends=text.endswith(".")), count=2)) for text in texts)
    level = tree.add(tree.path[-1] if tree.path else None, candidates)
    level.judged = level.nodes
    agrees = votes == AGREE
    level.verdict = Verdict(
        "ok" if agrees else "no_signal",
        (1.0, 0.0) if agrees else (0.0, 0.0),
        0 if agrees else None,
        worst=1 if agrees else None,
        margin=fields.get("margin", 0.9) if agrees else None,
        votes=(Vote(0, 1, votes[0], f"A is right: {texts[0]}"), Vote(1, 0, votes[1], f"B is right: {texts[0]}")),
        usage=Usage(2, 20, 10),
    )
    level.abandoned = not agrees
    if agrees:
        level.chosen = level.nodes[0]
        tree.path.append(level.nodes[0])
    return level


def tree_of(name: str, *, answer: str = "2", votes: Verdicts = AGREE, margin: float = 0.9, long: int = 0) -> StepTree:
    """Return the tree of the question `1+1 (name)` whose solution ends at `answer`."""
    tree = StepTree(Problem(name, f"1+1 ({name})"), status="ended", round=1, generator="sample", judge="pairwise")
    if votes != AGREE:
        add_level(tree, ("maybe so\n", "maybe not\n"), votes)
        tree.rollbacks = 1
    add_level(tree, ("one and one" + " more" * long + "\n", "one and two\n"), AGREE, margin=margin)
    add_level(tree, (rf"\boxed{{{answer}}}.", r"\boxed{7}."), AGREE)
    tree.usage = Usage(5, 100, 40)
    tree.seconds = 0.5
    return tree


def write_rows(path: Path, rows: list[Any]) -> None:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(dump_row(row) for row in rows))


def write_json(path: Path, data: object) -> None:
    """Write data as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


CONFIG = """
name: small
seed: 3
model: base
rounds: 2
problems: {{path: "{folder}/problems.jsonl"}}
backend: {{kind: openai}}
prices: {{gpt: {{prompt: 1.0, completion: 2.0}}}}
evaluate: {{problems: {{path: "{folder}/held_out.jsonl"}}, pairs: "{folder}/labelled.jsonl"}}
"""


def write_model(run: Path, index: int, right: int, *, trees: list[StepTree]) -> None:
    """Write the evaluation of M_index: `right` of ten problems solved, two of three labelled pairs judged right."""
    folder = run / "evaluation" / f"M_{index}"
    write_rows(folder / "trees.jsonl", trees)
    write_rows(folder / "greedy.jsonl", [tree_of(f"g{i}") for i in range(10)])
    votes = [{"first": 0, "second": 1, "outcome": "second", "reply": "wrong, I say"}]
    usage = {"requests": 2, "prompt_tokens": 30, "completion_tokens": 8}
    items = [
        {"index": i, "right": i > 0, "consistent": i > 0, "verdicts": [{"votes": votes, "usage": usage}]}
        for i in range(3)
    ]
    write_rows(folder / "pairs.jsonl", items)
    solved = [i < right for i in range(10)]
    figures = {"name": f"M_{index}", "greedy_accuracy": right / 10, "solved": solved, "judge_accuracy": 2 / 3}
    write_json(folder / "metrics.json", {**figures, "search_accuracy": 0.5, "failed_requests": 0})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two rounds with every file that a report reads."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    questions = [f"1+1 ({name})" for name in ("p0", "p1", "p2", "p3", "h0", "h1")]
    rows = [{"question": question, "answer": "2"} for question in questions]
    write_rows(folder / "problems.jsonl", rows)
    write_rows(folder / "held_out.jsonl", rows[4:])
    pair = {"question": "1+1", "prefix": ["so\n"], "first": "it is 2", "second": "it is 3", "winner": "first"}
    write_rows(folder / "labelled.jsonl", [pair] * 3)
    trees = [tree_of("p0"), tree_of("p1", answer="3", votes=DISAGREE), tree_of("p2", margin=0.6)]
    failed = StepTree(Problem("p3", "1+1 (p3)"), status="failed", error="the server said 500")
    write_rows(folder / "round_1" / "trees.jsonl", [*trees, failed])
    write_rows(folder / "round_2" / "trees.jsonl", [tree_of(f"p{i}", long=50 * (i == 1)) for i in range(4)])
    for index in (1, 2):
        report = {"pairs": 6, "steps": 4, "parity": 1e-6, "margin": 0.4, "accuracy": 0.75, "warnings": ["it grows"]}
        write_json(folder / f"round_{index}" / "optimize.json", report)
        curve = [{"step": i, "steps": 4, "loss": 1 / i, "margin": 0.1 * i, "kl": 0.0} for i in (1, 2, 3, 2, 3, 4)]
        write_rows(folder / f"round_{index}" / "training.jsonl", curve)
        write_json(folder / "watch" / f"M_{index}.json", {"ended": 1.0, "positions_agree": 0.9})
    for index, right in ((1, 3), (2, 5), (3, 8)):
        write_model(folder, index, right, trees=[tree_of("h0", answer="2" if index > 1 else "4"), tree_of("h1")])
    models = [
        {"name": f"M_{i}", "greedy_accuracy": right / 10, "preferences": n, "pairs_right": None}
        for i, right, n in ((1, 3, None), (2, 5, 6), (3, 8, 8))
    ]
    drifted = {"M_3": ["tokens per step 8.0 -> 80.0"]}
    write_json(folder / "summary.json", {"wall_seconds": 9.5, "models": models, "drifted": drifted, "last_good": "M_2"})
    seconds = {
        "round_1: search": 4.0,
        "round_1: optimize": 1.5,
        "round_2: search": 2.0,
        "evaluation/M_3: evaluate": 2.0,
    }
    hashes = {"inputs": {"model": "ab" * 32}, "outputs": {"trees": "cd" * 32}}
    stages = {name: {**hashes, "seconds": number} for name, number in seconds.items()}
    write_json(folder / "manifest.json", {"schema": "stepagent/run/2", "stages": stages})
    write_json(
        folder / "data" / "eft" / "funnel.json", {"levels and pairs": 12, "  − margin below 0.5": 5, "pairs kept": 7}
    )
    write_store(folder / "responses.sqlite")
    return folder


def write_store(path: Path) -> None:
    """Write a response store with two replies of a priced model."""
    store = sqlite3.connect(path)
    columns = "key, sample, completion, model, requests, prompt_tokens, completion_tokens"
    store.execute(f"CREATE TABLE responses ({columns})")
    for key in ("a", "b"):
        store.execute("INSERT INTO responses VALUES (?, 0, '', 'gpt', 1, 1000000, 500000)", (key,))
    store.commit()
    store.close()


class Tables(HTMLParser):
    """A page's tables as rows of texts, by the id of their section, and its inline scripts, styles and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._section, self._open = "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs).get("id") or ""
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("th", "td"):
            self._open = True
            self.rows[self._section][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._open = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self.rows[self._section][-1][-1] += " ".join(data.split()) + " " * data.endswith("\n")

    def row(self, section: str, first: str) -> list[str]:
        """Return the cells of the first row of a section that begins with `first`."""
        return next([cell.strip() for cell in row] for row in self.rows[section] if row and row[0].strip() == first)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Headless Chromium. See headless_chromium."""
    with headless_chromium(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture
def hostile_run() -> Callable[[Path], None]:
    """Writer of every hostile text into every file of a run."""

    def put_all(folder: Path) -> None:
        for text in ATTACKS:
            put_into(folder, text)

    return put_all


@pytest.fixture
def make_tree() -> Callable[..., StepTree]:
    """Maker of trees; see tree_of."""
    return tree_of


@pytest.fixture
def tables() -> Callable[[Path], Tables]:
    """Reader of a written report."""
    return lambda path: Tables(path.read_text(encoding="utf-8"))


@pytest.fixture
def stepagent_in(monkeypatch: pytest.MonkeyPatch, stepagent: Callable[..., Any]) -> Callable[..., Any]:
    """The installed command, in this process, in a wide terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    return stepagent
