"""A run on several servers of one model: each gets every new model, and none answers with older weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml
from chaos_world import BASE, RUN, results, say, write_world
from tiny_server import TinyServer

from stepagent.files.jsonl import read_lines
from stepagent.serve.deployment import Record
from stepagent.testing.stub_server import Stub, serve

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def servers() -> Iterator[list[TinyServer]]:
    """Two servers that were started with M_0."""
    tiny = [TinyServer(BASE), TinyServer(BASE)]
    yield tiny
    for server in tiny:
        server.close()


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a judge."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    with serve(Stub(say, tokenises=False, model="judge")) as url:
        yield url


def write_config(folder: Path, judge: str, servers: list[TinyServer]) -> Path:
    folder.mkdir()
    path = write_world(folder, servers[0].url, judge)
    config = yaml.safe_load(path.read_text())
    config["backend"]["base_url"] = [server.url for server in servers]
    path.write_text(yaml.safe_dump(config))
    return path


def test_all_get_each_model_and_one_that_comes_back_gets_it_before_it_is_asked(
    tmp_path: Path, judge: str, servers: list[TinyServer], stepagent: Command
) -> None:
    """A reply of these servers depends on the weights, the prompt and the seed alone: one server or two, and one of
    them away for a while, lead to the same M_2, unless one answers with M_0's weights."""
    alone = write_config(tmp_path / "alone", judge, servers[:1])
    assert stepagent("iterate", alone, "--runs", alone.parent).returncode == 0
    for server in servers:
        server.die()
        server.be_born()
    both = write_config(tmp_path / "both", judge, servers)
    away = threading.Event()

    def leave() -> None:
        trees = both.parent / RUN / "round_1" / "trees.jsonl"
        while not (trees.exists() and trees.stat().st_size):
            time.sleep(0.005)
        servers[1].die()
        time.sleep(0.3)
        servers[1].be_born()
        away.set()

    threading.Thread(target=leave, daemon=True).start()
    result = stepagent("iterate", both, "--runs", both.parent)
    assert result.returncode == 0, result.stderr
    assert away.is_set()
    assert results(both.parent) == results(alone.parent)
    for name in ("server", "server_2"):
        folder = both.parent / RUN / name
        current = Record(folder).current()
        assert current is not None
        assert current.version.name == "M_2"
        assert len(list(read_lines(folder / "deployments.jsonl"))) >= 1


def test_servers_that_differ_in_how_they_name_a_model_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace as changed

    from stepagent.assembly.session import Session
    from stepagent.config.loading import load_config
    from stepagent.errors import ServeError
    from stepagent.serve.deployment import Deployment
    from stepagent.serve.proof import Proof
    from stepagent.stages import deploy
    from stepagent.types import ModelVersion

    path = tmp_path / "c.yaml"
    path.write_text("model: m\nproblems: p.jsonl\nbackend: {kind: openai, base_url: ['http://a/v1', 'http://b/v1']}\n")
    model = ModelVersion(2, "run/M_2")
    first = Deployment("policy", "0", model, method="reload", proof=Proof("proven", 0.0, None))
    deployments = iter([first, changed(first, name="policy-2", method="adapter")])
    with Session(load_config(path), tmp_path) as session, pytest.MonkeyPatch.context() as patch:
        patch.setattr(deploy, "put", lambda *_: next(deployments))
        serving = deploy.Serving(session, deploy.make_servers(session.config, tmp_path))
        with pytest.raises(ServeError, match=r"several names \(policy, policy-2\).* set serve\.redeploy"):
            serving.connection(model)
