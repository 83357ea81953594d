"""`stepagent push`, against a stand-in of the Hub: all that arrives, and everything that is refused before."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from hub_stand_in import LARGE, HubRepository, HubStandIn, serve_hub

from stepagent import push
from stepagent.files.jsonl import dump_row, write_json
from stepagent.files.runs import SCHEMA, hash_path
from stepagent.testing import step
from stepagent.tree import StepTree
from stepagent.types import Candidate, Problem, Verdict, Vote

Command = Callable[..., CompletedProcess[str]]
# huggingface_hub's own upload over HTTP
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
MODEL, DATA = "models/org/adder", "datasets/org/adder-preferences"


def one_tree(name: str) -> StepTree:
    tree = StepTree(Problem(name, f"1+1 ({name})"), status="ended", round=1, generator="sample", judge="pairwise")
    level = tree.add(None, tuple(Candidate(step(text, ends=True)) for text in ("2", "3" * 2000)))
    level.judged, level.chosen = level.nodes, level.nodes[0]
    votes = (Vote(0, 1, "first"), Vote(1, 0, "second"))
    level.verdict = Verdict("ok", (1.0, 0.0), 0, worst=1, margin=0.9, votes=votes)
    tree.path.append(level.nodes[0])
    return tree


def write_model(run: Path, index: int, base: str) -> None:
    folder = run / f"M_{index}"
    (folder / "adapter").mkdir(parents=True)
    (folder / "serving").mkdir()
    draw = random.Random(index)
    for name, size in (("model-1.safetensors", 9000), ("model-2.safetensors", 20_000), ("serving/x.safetensors", 5000)):
        (folder / name).write_bytes(draw.randbytes(size))
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(draw.randbytes(LARGE + index))
    write_json(folder / "adapter" / "adapter_config.json", {"base_model_name_or_path": base, "r": 4})
    (folder / "adapter" / "README.md").write_text(f"base: {base}\n")
    (folder / "config.json").write_text('{"model_type": "qwen2"}\n')
    (folder / "tokenizer.json").write_text('{"ä": 1}\n')
    (folder / ".gitignore").write_text("*.safetensors\n")
    facts = "- method: step-wise DPO\n- preference pairs: 3 of round 1 (sha256 ab)\n- parity: 1e-06\n"
    (folder / "README.md").write_text(f"Trained from `{base}`.\n\n{facts}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two finished rounds and a third one that is being searched; M_3 has drifted."""
    run = tmp_path / "runs" / "sums"
    run.mkdir(parents=True)
    config = {
        "name": "sums",
        "model": "Qwen/Qwen2.5-Math-1.5B",
        "problems": str(tmp_path / "secret" / "problems.jsonl"),
        "judge": {"prompt": "judge_pairwise", "backend": {"kind": "openai", "base_url": "http://intern/v1"}},
        "evaluate": {"problems": {"path": str(tmp_path / "secret" / "held_out.jsonl")}},
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    stages: dict[str, Any] = {}
    for index in (2, 3):
        before = str(run / f"M_{index - 1}")
        write_model(run, index, before)
        made_of = hash_path(run / "M_2") if index == 3 else "ab"
        entry = {"settings": "", "inputs": {"model": made_of}, "outputs": {"model": hash_path(run / f"M_{index}")}}
        stages[f"round_{index - 1}: optimize"] = entry
        folder = run / f"round_{index - 1}"
        folder.mkdir()
        (folder / "trees.jsonl").write_text("".join(dump_row(one_tree(f"p{index}{i}")) for i in range(3)))
        (folder / "preferences.jsonl").write_text('{"prompt": "1+1", "chosen": "2", "rejected": "3"}\n' * 3)
        stages[f"round_{index - 1}: search"] = {"settings": "", "inputs": {}, "outputs": {"trees": "cd"}}
        solved = [i < 3 * index for i in range(10)]
        evaluation = run / "evaluation" / f"M_{index}"
        evaluation.mkdir(parents=True)
        write_json(
            evaluation / "metrics.json", {"name": f"M_{index}", "greedy_accuracy": sum(solved) / 10, "solved": solved}
        )
    (run / "round_3").mkdir()
    (run / "round_3" / "trees.jsonl").write_text(dump_row(one_tree("p9")))
    stages["round_3: search"] = {"settings": "", "inputs": {}}
    write_json(run / "manifest.json", {"schema": SCHEMA, "stages": stages})
    write_json(run / "summary.json", {"models": [], "drifted": {"M_3": ["longer"]}, "last_good": "M_2"})
    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """The stand-in, at which this process's huggingface_hub looks."""
    stand_in = HubStandIn()
    with serve_hub(stand_in) as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_TOKEN", stand_in.token)
        monkeypatch.setenv("HF_TOKEN_PATH", "/nowhere/token")
        yield stand_in


def refused(result: CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result
    sentence = " ".join(result.stderr.split("error: ")[1].split())
    assert "Traceback" not in result.stderr
    assert "\n" not in result.stderr.split("error: ")[1].strip()
    for word in words:
        assert word in sentence


def test_all_files_arrive_byte_by_byte_with_their_cards(run: Path, hub: HubStandIn, stepagent: Command) -> None:
    result = stepagent("push", run, "--to", "org/adder")
    assert result.returncode == 0, result.stderr
    folder, repository = run / "M_2", hub.repositories[MODEL]
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    left_out = {"README.md", "adapter/README.md", "adapter/adapter_config.json", "serving/x.safetensors"}
    for name in names - left_out:
        assert repository.files[name] == (folder / name).read_bytes(), name
    assert repository.files.keys() - names == {"stepagent.json"}
    assert names - repository.files.keys() == {"adapter/README.md", "serving/x.safetensors"}
    assert json.loads(repository.files["adapter/adapter_config.json"]) == {"base_model_name_or_path": "M_1", "r": 4}
    data = hub.repositories[DATA]
    assert data.files.keys() == {
        "README.md", "stepagent.json",
        *(f"round_{i}/{name}.jsonl" for i in (1, 2) for name in ("preferences", "trees")),
    }  # fmt: skip
    for name in data.files.keys() - {"README.md", "stepagent.json"}:
        assert data.files[name] == (run / name).read_bytes()
    assert repository.private
    assert data.private
    assert repository.commits == data.commits == ["Begin an upload by stepagent", "Upload by stepagent"]
    assert len(hub.uploads) == 5, "three large files of the model, two of trees"


def test_python_pushes_as_the_command_does(run: Path, hub: HubStandIn) -> None:
    addresses = push(run, "org/adder", model="M_3")
    assert [address.rpartition("org/")[2] for address in addresses] == ["adder", "adder-preferences"]


def test_the_cards_tell_data_results_and_limits_and_no_path(run: Path, hub: HubStandIn, stepagent: Command) -> None:
    assert stepagent("push", run, "--to", "org/adder", "--model", "M_3", "--public").returncode == 0
    card = hub.repositories[MODEL].files["README.md"].decode()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model"] == "Qwen/Qwen2.5-Math-1.5B"
    assert head["datasets"] == ["org/adder-preferences"]
    assert "| M_3 | M_2 | step-wise DPO | 3 pairs of round 1 (sha256 ab) | 3 |" in card
    assert "| M_3 | 90.0% (59.6 to 98.2) |" in card
    assert "M_3 against M_2, greedily, in points: +30.0 (-8.7 to +58.7, paired)" in card
    assert "It has drifted from M_1: longer." in card
    assert "`held_out.jsonl`" in card
    data_card = hub.repositories[DATA].files["README.md"].decode()
    assert "| 2 | M_2 | 3 | 3 | 3 |" in data_card
    assert yaml.safe_load(data_card.split("---\n")[1])["configs"]
    for text in (card, data_card, str(hub.repositories[MODEL].files["adapter/adapter_config.json"])):
        assert str(run.parent.parent) not in text
        assert "intern" not in text
    assert not hub.repositories[MODEL].private


def test_a_killed_upload_is_finished_by_the_same_command(run: Path, hub: HubStandIn, stepagent: Command) -> None:
    hub.gate.clear()
    hub.let_through = 2
    command = [sys.executable, "-m", "stepagent", "push", str(run), "--to", "org/adder"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert hub.waiting.wait(60)
    process.kill()
    process.communicate()
    assert hub.repositories[MODEL].files.keys() == {"stepagent.json"}, "no half model is shown"
    hub.gate.set()
    early = list(hub.uploads)
    assert len(early) == 2
    result = stepagent("push", run, "--to", "org/adder")
    assert result.returncode == 0, result.stderr
    assert len(hub.uploads) == len(set(hub.uploads)) == 5, "nothing is sent twice"
    assert hub.repositories[MODEL].files["model-2.safetensors"] == (run / "M_2" / "model-2.safetensors").read_bytes()
    requests = len(hub.requests)
    assert stepagent("push", run, "--to", "org/adder").returncode == 0, "once more changes nothing"
    assert len(hub.uploads) == 5
    assert len(hub.repositories[MODEL].commits) == 2
    assert not any("create" in request for request in hub.requests[requests:])


def test_a_long_upload_shows_its_progress_in_a_log_file(
    run: Path, hub: HubStandIn, stepagent: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepagent.console._LINE_SECONDS", 0.0)
    monkeypatch.setattr("stepagent.console._SHOW_SECONDS", 0.0)
    error = stepagent("push", run, "--to", "org/adder").stderr
    assert re.search(
        r"push org/adder \(MB\): 0 of 1, (.*, )?model-2\.safetensors; [\d.]+ MB sent by this machine\n", error
    )
    assert "push org/adder-preferences (MB): " in error
    assert "Upload" not in error, "no bars of the library"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("GET /api/whoami", 401, "does not know the token"),
        ("POST /api/repos/create", 403, "may not write"),
        ("POST /api/repos/create", 409, "exists already"),
        ("GET /api/models", 403, "may not write"),
    ],
)
def test_a_refusal_of_the_hub_is_one_sentence(
    run: Path, hub: HubStandIn, stepagent: Command, *, path: str, status: int, words: str
) -> None:
    hub.refusals[path] = status
    refused(stepagent("push", run, "--to", "org/adder"), "org/adder", words)
    assert not hub.repositories
    assert not hub.uploads


def test_a_commit_that_is_refused_is_one_sentence(run: Path, hub: HubStandIn, stepagent: Command) -> None:
    hub.refusals["POST /api/models/org/adder/commit"] = 403
    refused(stepagent("push", run, "--to", "org/adder"), "may not write there (the Hub: no, with 403)")
    assert not hub.uploads


def test_a_missing_or_wrong_token_is_one_sentence(
    run: Path, hub: HubStandIn, stepagent: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(stepagent("push", run, "--to", "org/adder"), "does not know the token", "HF_TOKEN")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    refused(stepagent("push", run, "--to", "org/adder"), "wants a token", "hf auth login")
    assert not hub.repositories


def test_a_token_that_may_not_write_is_seen_before(run: Path, hub: HubStandIn, stepagent: Command) -> None:
    hub.role = "read"
    refused(stepagent("push", run, "--to", "org/adder"), "may only read")
    hub.role = "write"
    refused(stepagent("push", run, "--to", "stranger/adder"), "may not write there, but under me, org")
    assert not any(request.startswith("POST") for request in hub.requests)


def test_a_name_that_exists_is_refused_and_nothing_changes(run: Path, hub: HubStandIn, stepagent: Command) -> None:
    hub.repositories[DATA] = HubRepository(True, {"data.csv": b"1"})
    refused(stepagent("push", run, "--to", "org/adder"), "the data set org/adder-preferences exists already")
    assert hub.repositories.keys() == {DATA}
    del hub.repositories[DATA]
    hub.repositories[MODEL] = HubRepository(True, {})  # made on the site just now
    refused(stepagent("push", run, "--to", "org/adder", "--public"), "is private already; leave out --public")
    assert stepagent("push", run, "--to", "org/adder").returncode == 0
    content = dict(hub.repositories[MODEL].files)
    refused(stepagent("push", run, "--to", "org/adder", "--model", "3"), "exists already, with M_2 of sums")
    assert hub.repositories[MODEL].files == content


def test_a_run_or_model_of_no_use_is_one_sentence(
    run: Path, hub: HubStandIn, stepagent: Command, tmp_path: Path
) -> None:
    refused(stepagent("push", tmp_path, "--to", "org/adder"), "not a run's folder")
    refused(stepagent("push", run, "--to", "adder"), "--to adder: not a repository's name; give one such as org/name")
    refused(stepagent("push", run, "--to", "org/a dder"), "not a repository's name")
    refused(stepagent("push", run, "--to", "org/adder", "--model", "best"), "--model best: not the name of a model")
    refused(stepagent("push", run, "--to", "org/adder", "--model", "M_7"), "no M_7 in this run; it holds M_2, M_3")
    (run / "M_2" / "tokenizer.json").write_text("{}")
    refused(stepagent("push", run, "--to", "org/adder"), "M_2: not as it was made")
    shutil.copytree(run / "M_3", run / "M_4")
    refused(stepagent("push", run, "--to", "org/adder", "--model", "M_4"), "manifest does not say how it was made")
    for folder in run.glob("M_*"):
        shutil.rmtree(folder)
    refused(stepagent("push", run, "--to", "org/adder"), "no model in this run")
    assert not any(request.startswith("POST") for request in hub.requests)


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    run: Path, hub: HubStandIn, stepagent: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refused(stepagent("push", run, "--to", "org/adder"), "could not be reached", "the same command goes on")
