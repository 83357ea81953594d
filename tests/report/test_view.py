"""`stepagent view`: a run on 127.0.0.1 while it goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Page
from selenium import webdriver
from selenium.webdriver.support.ui import Select, WebDriverWait

from stepagent.files.jsonl import dump_row
from stepagent.report.live_index import LiveIndex
from stepagent.report.tree_facts import FILTERS


def test_the_index_follows_the_files(run: Path, make_tree: Callable[..., Any]) -> None:
    index = LiveIndex(run)

    def ids(**choice: Any) -> list[str]:
        defaults = {"query": "", "file": 0, "filters": (), "order": "file", "first": 0, "size": 100}
        return [tree["id"] for tree in index.page(**{**defaults, **choice})["trees"]]

    assert index.refresh()
    assert not index.refresh(), "nothing was written since"
    assert ids() == ["p0", "p1", "p2", "p3"]
    trees = run / "round_1" / "trees.jsonl"
    row = dump_row(make_tree("p9", margin=0.55))
    with trees.open("a") as file:
        file.write(row[:50])
    assert not index.refresh(), "a line that is still being written waits"
    with trees.open("a") as file:
        file.write(row[50:] + "no tree\n")
    assert index.refresh()
    assert ids() == ["p0", "p1", "p2", "p3", "p9"]
    assert ids(first=3, size=1) == ["p3"]
    assert ids(filters=["low_margin"], order="margin") == ["p9", "p2"]
    assert ids(filters=["disagree", "wrong"]) == ["p1"]
    assert ids(query="1+1 (P2") == ["p2"]
    assert ids(query="%") == []
    assert ids(file=None, query="h0") == ["h0"] * 3
    page = index.page("", None, [], order="file", first=0, size=0)
    assert page["all"] == 15
    assert page["counts"].keys() == FILTERS.keys()
    part = trees.with_name("part")
    part.write_text(dump_row(make_tree("q0")))
    part.replace(trees)
    assert index.refresh()
    assert ids() == ["q0"]
    index.close()


def test_the_index_counts_like_the_report(run: Path) -> None:
    from stepagent.report.page import count_folder

    facts = count_folder(run).facts
    index = LiveIndex(run)
    index.refresh()
    counts = index.page("", None, [], order="file", first=0, size=0)["counts"]
    assert counts == {name: sum(name in tree.flags for tree in facts) for name in FILTERS}
    index.close()


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    """The address of a view of the run."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    process = subprocess.Popen(
        [sys.executable, "-m", "stepagent", "view", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout
    lines = iter(process.stdout.readline, "")
    printed = next((line for line in lines if line.startswith("view: ")), "")
    try:
        assert printed.startswith("view: http://127.0.0.1:")
        yield printed.split()[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def get(address: str, host: str | None = None, method: str = "GET") -> tuple[int, str, Any]:
    request = urllib.request.Request(address, method=method, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read().decode(), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, "", error.headers


def test_only_its_own_address_answers_and_only_to_reading(address: str, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    status, page, headers = get(address)
    assert (status, headers["Cache-Control"], headers["X-Frame-Options"]) == (200, "no-store", "DENY")
    assert "connect-src 'self'" in page.replace("&#39;", "'")
    root = address.rstrip("/").rpartition("/")[0]
    assert len(address.rstrip("/").rpartition("/")[2]) >= 20
    assert get(f"{root}/")[0] == get(f"{root}/list")[0] == get(f"{root}/wrong-token/list")[0] == 404
    assert get(address, host="evil.example")[0] == 400, "a name that a page of another site points at this machine"
    assert get(address, method="POST")[0] == get(f"{address}list", method="DELETE")[0] == 405
    for query in ("trees", "trees?number=99", "trees?number=-1", "trees?number=x", "trees?number=9999999999999999999"):
        assert get(address + query)[0] == 404
    for query in ("list?size=99999999&first=-3", "list?file=77", "list?filter=x;DROP&order=1;DROP", "list?q=%27%3B--"):
        assert get(address + query)[0] == 200
    assert json.loads(get(f"{address}list?size=5")[1])["all"] == 14
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_is_followed_in_the_browser(
    browser: webdriver.Chrome, address: str, run: Path, make_tree: Callable[..., Any]
) -> None:
    page = Page(browser, address)
    wait = WebDriverWait(browser, 30)
    wait.until(lambda _: "14 trees of 14 so far" in page.one("#tree-status").text)
    wait.until(lambda _: page.all("#tree-view .step.kept"))
    assert page.script("return document.activeElement === document.body"), "a page that opens stays at its top"
    with (run / "round_2" / "trees.jsonl").open("a") as file:
        file.write(dump_row(make_tree("new-one", margin=0.51)))
    wait.until(lambda _: "15 trees of 15 so far" in page.one("#tree-status").text)
    page.one('[data-filter="low_margin"]').click()
    wait.until(lambda _: page.one("#tree-status").text.startswith("2 trees"))
    Select(page.one("#tree-order")).select_by_value("margin")
    wait.until(lambda _: "new-one" in page.one("#tree-list li").text)
    page.one('[data-filter="low_margin"]').click()
    Select(page.one("#tree-file")).select_by_visible_text("M_1, held-out problems (2)")
    wait.until(lambda _: page.one("#tree-status").text.startswith("2 trees"))
    page.one("#tree-list button").click()
    wait.until(lambda _: len(page.all(".others button")) == 2)
    page.all(".others button")[1].click()
    wait.until(lambda _: len(page.all("#tree-view article")) == 2)
    assert [title.text for title in page.all("#tree-view article > h4")][1] == "M_3, held-out problems"
    strangers = [url for url in page.loaded() if not url.startswith(address)]
    assert strangers == []
    assert page.console() == []


def test_without_starlette(run: Path, stepagent_in: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = stepagent_in("view", run)
    assert result.returncode == 2
    assert "pip install 'stepagent[view]'" in result.stderr
    shutil.rmtree(run)
