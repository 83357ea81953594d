"""A search killed with -9 again and again: nothing that was paid for is paid for twice."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepagent.testing.stub_server import Stub, serve

IN_FLIGHT = 8
CONFIG = """
model: m
problems: {folder}/problems.jsonl
concurrency: {in_flight}
backend: {{kind: openai, base_url: "{url}", max_in_flight: {in_flight}}}
generator: {{boundary: line, prompt: demo_solve, temperature: 1.0, max_tokens: 40}}
judge: {{kind: pairwise, prompt: demo_judge, max_tokens: 40}}
search: {{width: 3, max_iterations: 8}}
"""


def say(context: str, seed: int) -> str:
    """Lines of sums, and verdicts that prefer the larger of two first digits."""
    question = context.removesuffix("<assistant>").rpartition("<user>")[2]
    if "|A " in question:
        a, b = (question.partition(mark)[2][:1] for mark in ("|A ", "|B "))
        return "[[C]]" if a == b else "[[A]]" if a > b else "[[B]]"
    lines = context.rpartition("<assistant>")[2].count("\n")
    number = random.Random(f"{context}{seed}").randrange(4)
    return f"{number}=" if lines == 3 else f"{number}+{lines}\nmore\n"


@pytest.mark.slow
def test_killed_twenty_times_a_search_gives_the_same_and_asks_nothing_twice(
    tmp_path: Path,
) -> None:
    stub = Stub(say, seconds_per_token=0.003)  # some 20 ms a reply
    rows = [{"id": str(i), "question": f"{i}+1"} for i in range(60)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serve(stub) as url:
        config = tmp_path / "c.yaml"
        config.write_text(CONFIG.format(folder=tmp_path, url=url, in_flight=IN_FLIGHT))

        def start(out: Path) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "stepagent", "search", str(config), "--out", str(out)]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        calm = start(tmp_path / "calm")
        assert calm.wait(300) == 0
        expected = (tmp_path / "calm" / "preferences.jsonl").read_bytes()
        assert expected
        whole = len(stub.requests)
        stub.requests.clear()

        rng, out, lost, kills = random.Random(0), tmp_path / "killed", 0, 0
        while kills < 20:
            running, before = start(out), len(stub.requests)
            until = before + rng.randrange(max(2, whole // 20))
            while len(stub.requests) <= until and running.poll() is None:
                time.sleep(0.005)
            running.kill()
            assert running.wait(60) != 0, "it was to be killed before it was done"
            kills += 1
            time.sleep(0.3)  # what the stub was still answering
            loss = len(stub.requests) - stored_replies(out)
            assert loss - lost <= IN_FLIGHT, "what one kill loses was in flight"
            lost = loss
        assert start(out).wait(300) == 0
    assert (out / "preferences.jsonl").read_bytes() == expected
    assert stored_replies(out) == whole
    assert len(stub.requests) == whole + lost, "only what was lost in flight was asked again"


def stored_replies(out: Path) -> int:
    path = out / "responses.sqlite"
    if not path.exists():
        return 0
    with sqlite3.connect(path) as store:
        return int(store.execute("SELECT COUNT(*) FROM contexts").fetchone()[0])
