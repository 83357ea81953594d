"""The settings of a server, and a run that lacks them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepagent.assembly.session import Session
from stepagent.config.loading import load_config
from stepagent.config.settings import ServeSettings
from stepagent.errors import ConfigError
from stepagent.stages.deploy import deploy_command, make_servers, serve_command
from stepagent.stages.iterate import check_inputs

BASE = {"model": "m", "problems": "p.jsonl"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"serve": {"command": ["v"]}}, "serve: is for backend.kind: openai"),
        ({"backend": {"kind": "openai"}}, r"backend\.base_url: name a running server, or set serve\.command"),
        (
            {"backend": {"kind": "openai", "base_url": "http://h/v1"}, "serve": {"command": ["v"]}},
            r"backend\.base_url: leave it out",
        ),
        ({"serve": {"redeploi": "x"}}, "unknown key 'serve.redeploi'; did you mean 'redeploy'"),
        ({"backend": {"kind": "openai", "base_url": "h:1"}}, r"'h:1' is no address; write http"),
        ({"prices": {"m": {"prompt": 1}}}, "completion"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    (tmp_path / "p.jsonl").write_text('{"question": "q"}\n')
    path.write_text(json.dumps({**BASE, "problems": str(tmp_path / "p.jsonl"), **settings}))
    with pytest.raises(ConfigError, match=message), Session(load_config(path), path.parent) as session:
        check_inputs(session)


def test_a_managed_server_gets_a_key_and_an_external_one_the_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.delenv("STEPAGENT_API_KEY", raising=False)
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**BASE, "backend": {"kind": "openai"}, "serve": {"command": ["v"]}}))
    (server,) = make_servers(load_config(path), tmp_path)
    assert server.managed
    assert server.base_url == "http://127.0.0.1:8000/v1"
    assert len(os.environ["STEPAGENT_API_KEY"]) > 20
    backend = {"kind": "openai", "base_url": "http://h:1/v1", "model": "x", "api_key_env": "MINE"}
    path.write_text(json.dumps({**BASE, "backend": backend}))
    (server,) = make_servers(load_config(path), tmp_path)
    assert not server.managed
    assert (server.name, server.settings.api_key_env) == ("x", "MINE")
    assert ServeSettings().host == "127.0.0.1"


def test_deploy_and_serve_say_what_a_run_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a run's folder \(config\.yaml is missing\)"):
        deploy_command(tmp_path, None)
    (tmp_path / "config.yaml").write_text(json.dumps(BASE))
    with pytest.raises(ConfigError, match="asks its model in process; there is no server"):
        deploy_command(tmp_path, None)
    with pytest.raises(ConfigError, match=r"serve\.command is not set"):
        serve_command(tmp_path)
