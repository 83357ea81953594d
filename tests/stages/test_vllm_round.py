"""A round of the loop on a real vLLM server that is killed in its midst."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml
from vllm_world import make_model, serve_settings

from stepagent.config.loading import load_config
from stepagent.errors import ServeError
from stepagent.files.jsonl import iter_json
from stepagent.serve.folders import weights_sha256
from stepagent.stages.deploy import deploy_command
from stepagent.stages.iterate import iterate

pytestmark = pytest.mark.slow


CONFIG = {
    "name": "run",
    "rounds": 1,
    "concurrency": 4,
    "backend": {"kind": "openai"},
    "generator": {"prompt": "demo_solve", "boundary": "line", "temperature": 1.0, "max_tokens": 40},
    "judge": {"kind": "random"},
    "search": {"width": 3, "max_iterations": 6},
    "optimize": {"learning_rate": 1e-2, "batch_size": 8, "epochs": 2},
    "watch": {"problems": 8, "then": "warn"},
}


def test_a_round_whose_server_is_killed_in_the_search_ends_with_m2_on_it(tmp_path: Path) -> None:
    """M_0 -> M_1 -> M_2 on a managed server, killed with -9 once some trees are done: every problem has its
    tree."""
    model = make_model(tmp_path / "base")
    problems = [{"id": str(i), "question": f"{i}+{i % 7}"} for i in range(60)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    solved = [{"question": row["question"], "steps": [f"{row['question']}=9\n", "=9"]} for row in problems]
    (tmp_path / "ift.jsonl").write_text("".join(json.dumps(row) + "\n" for row in solved))
    config = {
        **CONFIG,
        "model": str(model),
        "problems": str(tmp_path / "problems.jsonl"),
        "serve": serve_settings().model_dump(mode="json"),
        "init": {"ift": str(tmp_path / "ift.jsonl"), "learning_rate": 1e-4},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    killed = threading.Event()

    def kill() -> None:
        trees = run / "round_1" / "trees.jsonl"
        while not trees.exists() or trees.read_bytes().count(b"\n") < 5:
            time.sleep(0.02)
        pid = json.loads((run / "server" / "server.json").read_text())["pid"]
        for process in psutil.Process(pid).children(recursive=True):
            process.send_signal(signal.SIGKILL)
        psutil.Process(pid).send_signal(signal.SIGKILL)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    settings = load_config(tmp_path / "c.yaml")
    iterate(settings, run)
    assert killed.is_set()
    trees = [row for _, row in iter_json(run / "round_1" / "trees.jsonl")]
    assert sorted(tree["problem"]["id"] for tree in trees) == sorted(row["id"] for row in problems)
    assert [tree["error"] for tree in trees if tree["status"] == "failed"] == []
    rows = [row for _, row in iter_json(run / "round_1" / "preferences.jsonl")]
    assert rows
    assert all(row["prompt_ids"] and row["chosen_ids"] and row["rejected_ids"] for row in rows)
    deployment = json.loads((run / "server" / "deployment.json").read_text())
    assert deployment["version"] == {"index": 2, "path": str(run / "M_2")}
    assert deployment["sha256"] == weights_sha256(run / "M_2")
    assert (deployment["method"], deployment["proof"]["outcome"]) == ("reload", "proven")
    log = (run / "server" / "server.log").read_text()
    assert log.count("\n$ ") == 2, "started, and started again after it was killed"
    iterate(settings, run)
    assert (run / "server" / "server.log").read_text() == log, "a finished run needs no server"
    with pytest.raises(ServeError, match="does not answer"):
        deploy_command(run, None)
