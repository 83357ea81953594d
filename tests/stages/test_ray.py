"""A search on Ray's workers: the same trees, each once, also when a worker is killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stepagent.testing.stub_server import Fault, Stub, serve

CONFIG = """
model: m
problems: {folder}/problems.jsonl
concurrency: 32
backend: {{kind: openai, base_url: "{url}", max_in_flight: 16}}
generator: {{boundary: line, prompt: demo_solve, temperature: 1.0, max_tokens: 40}}
judge: {{kind: random}}
search: {{width: 2, max_iterations: 8}}
"""


def say(context: str, seed: int) -> str:
    lines = context.rpartition("<assistant>")[2].count("\n")
    number = random.Random(f"{context}{seed}").randrange(4)
    return f"{number}=" if lines == 2 else f"{number}+{lines}\nmore\n"


def search(config: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stepagent", "search", str(config), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def workers(driver: int) -> list[psutil.Process]:
    processes = []
    for child in psutil.Process(driver).children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::Worker"):
                processes.append(child)
        except psutil.Error:
            continue
    return processes


@pytest.mark.slow
def test_a_thousand_problems_on_two_workers_of_which_one_is_killed(tmp_path: Path) -> None:
    rows = [{"id": str(i), "question": f"{i}+1"} for i in range(1000)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serve(Stub(say)) as url:
        config = tmp_path / "c.yaml"
        config.write_text(CONFIG.format(folder=tmp_path, url=url))
        alone = search(config, tmp_path / "alone")
        assert alone.communicate(timeout=300) is not None
        assert alone.returncode == 0
        trees = tmp_path / "ray" / "trees.jsonl"
        driver = search(config, tmp_path / "ray", "--runner", "ray", "--workers", "2")
        while driver.poll() is None and not (trees.exists() and trees.read_bytes().count(b"\n") > 100):
            time.sleep(0.05)
        assert driver.poll() is None, driver.communicate()[1]
        pair = workers(driver.pid)
        assert len(pair) == 2
        pair[0].kill()
        _, errors = driver.communicate(timeout=300)
        assert driver.returncode == 0, errors
    ids = [json.loads(line)["problem"]["id"] for line in trees.read_text().splitlines()]
    assert len(ids) == 1000
    assert set(ids) == {row["id"] for row in rows}
    assert (tmp_path / "ray" / "responses.sqlite").exists()
    expected = (tmp_path / "alone" / "preferences.jsonl").read_bytes()
    assert expected
    assert (tmp_path / "ray" / "preferences.jsonl").read_bytes() == expected


@pytest.mark.slow
def test_what_a_worker_cannot_make_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"question": "1+1"}\n')
    config = tmp_path / "c.yaml"
    stub = Stub(say, tokenises=False)
    stub.faults = [Fault(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")] * 50
    with serve(stub) as url:
        config.write_text(CONFIG.format(folder=tmp_path, url=url).replace("model: m", "model: other"))
        process = search(config, tmp_path / "out", "--runner", "ray")
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in errors
    assert "check backend.base_url, backend.model" in errors
