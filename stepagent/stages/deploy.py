"""Stage: M_i onto the server that answers for it; `stepagent deploy` and `stepagent serve`."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepagent.assembly.components import Components, make_components
from stepagent.assembly.session import Resources
from stepagent.config.loading import load_config
from stepagent.config.prompts import solve_prompt
from stepagent.config.settings import Config, ServeSettings
from stepagent.console import Telling, console, table
from stepagent.errors import ConfigError
from stepagent.files.jsonl import iter_json
from stepagent.files.problems import load_problems, problem_file
from stepagent.files.runs import RunFolder
from stepagent.serve.deployment import Deployment
from stepagent.serve.server import Model, Server
from stepagent.stages.train import sft_rows
from stepagent.types import Message

_PROBES = 32  # sequences among which those are found on which two models differ most


class Models:
    """Where the M_i of a run are asked: in process, or on a server that is given one after the other."""

    def __init__(self, config: Config, run: RunFolder, resources: Resources, server: Server | None) -> None:
        self._config = config
        self._run = run
        self._resources = resources
        self._server = server
        self.served = server is not None

    def components(self, model: str, index: int) -> Components:
        """What searches and evaluates with M_`index`, in the folder `model`."""
        if self._server is None:
            return make_components(self._config, model, self._resources)
        done = self.deploy(model, index)
        given = {
            "model": done.name,
            "base_url": self._server.base_url,
            "version": done.sha256,
            "tokenizer": model,
            "ready": self._server.ready,
            "api_key_env": self._server.settings.api_key_env,
        }
        return make_components(self._config, model, self._resources, given)

    def deploy(self, model: str, index: int) -> Deployment:
        """Put M_`index` on the server, proven. Raises ServeError or ModelError."""
        assert self._server is not None
        start = time.monotonic()
        before = self._server.current
        done = self._server.deploy(to_serve(self._config, self._run, model, index))
        if done != before:
            _report(done, time.monotonic() - start)
        return done

    def rest(self) -> None:
        """Make room for training on a device that the server shares."""
        if self._server is not None:
            self._server.rest()


@contextmanager
def models_of(config: Config, run: RunFolder, resources: Resources) -> Iterator[Models]:
    """The models of a run; a managed server runs as long as the block."""
    server = make_server(config, run.path)
    if server is None:
        yield Models(config, run, resources, None)
        return
    with server:
        yield Models(config, run, resources, server)


def make_server(config: Config, folder: Path, running: bool = False) -> Server | None:
    """The server that the config names: managed, external, or none. `running`: a managed one is up already
    and is another process'. Raises ConfigError."""
    arguments = config.backend.arguments()
    external = arguments.get("base_url")
    settings = config.serve
    if isinstance(external, list):
        if len(external) > 1:
            raise ConfigError(
                "backend.base_url: a run puts each new model on one server; put vLLM's data parallelism "
                "behind one address (several addresses serve stepagent search and evaluate)"
            )
        external = external[0]
    if config.backend.kind != "openai":
        if settings is not None:
            raise ConfigError("serve: is for backend.kind: openai; write backend: {kind: openai}")
        return None
    if settings is None or settings.command is None:
        if not external:
            raise ConfigError("backend.base_url: name a running server, or set serve.command to start one")
        settings = settings or ServeSettings()
        key = arguments.get("api_key_env", "OPENAI_API_KEY")
        settings = settings.model_copy(update={"api_key_env": key})
    elif external:
        raise ConfigError("backend.base_url: leave it out, serve.command starts a server of its own")
    elif running:
        external = f"http://{settings.host}:{settings.port}/v1"
    name = arguments.get("model") or settings.name
    return Server(settings, folder / "server", Telling(), external, str(name))


def to_serve(config: Config, run: RunFolder, model: str, index: int) -> Model:
    """M_`index` with the model before it and the token ids on which the two are told apart."""
    before = run.model(index - 1)
    against = str(before) if before.is_dir() else config.model if config.model != model else None
    return Model(model, index, against if index > 0 else None, _sequences(config, run, model, index))


def _sequences(config: Config, run: RunFolder, model: str, index: int) -> list[tuple[int, ...]]:
    """What the new model was trained on, else the problems: seeded, so that a run proves on the same."""
    from stepagent.models.tokenizer import load_tokenizer, render

    rng = random.Random(config.seed)
    preferences = run.round(index - 1) / "preferences.jsonl"
    if preferences.is_file():
        rows = [row for _, row in iter_json(preferences) if row.get("prompt_ids") and row.get("chosen_ids")]
        if rows:
            drawn = rng.sample(rows, min(_PROBES, len(rows)))
            return [(*row["prompt_ids"], *row["chosen_ids"]) for row in drawn]
    tokenizer: Any = load_tokenizer(model)

    def ids(messages: tuple[Message, ...], text: str) -> tuple[int, ...]:
        return tuple(tokenizer(render(tokenizer, messages) + text, add_special_tokens=False)["input_ids"])

    if config.init:
        learned = sft_rows(config, config.init)
        return [ids(row.messages, row.response) for row in rng.sample(learned, min(_PROBES, len(learned)))]
    problems = load_problems(problem_file(config.problems, run.path))
    solve = solve_prompt(config.generator)
    drawn_problems = rng.sample(problems, min(_PROBES, len(problems)))
    return [ids(solve.messages({"question": problem.question}), "") for problem in drawn_problems]


def _report(done: Deployment, seconds: float) -> None:
    proof = done.proof
    rows: dict[str, object] = {
        "served name": done.name,
        "weights (sha256)": done.sha256[:16],
        "method": done.method,
        "proof": proof.outcome,
        "nats per token from it": proof.to_new,
    }
    if proof.to_old is not None:
        rows["nats per token from the model before"] = proof.to_old
    table(f"Deployment of {done.model}", {**rows, "seconds": round(seconds, 2)})
    if proof.outcome == "indistinct":
        console.print(
            "the two models are too close to be told apart at the server's precision", style="yellow"
        )


def _newest(config: Config, run: RunFolder) -> tuple[str, int]:
    found = sorted(
        int(folder.name[2:])
        for folder in run.path.glob("M_*")
        if folder.name[2:].isdigit() and (folder / "config.json").is_file()
    )
    if found:
        summary = run.path / "summary.json"
        said = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
        drifted = f"M_{found[-1]}" in said.get("drifted", {}) and config.watch.then != "warn"
        newest = int(said["last_good"][2:]) if drifted else found[-1]
        return (str(run.model(newest)) if newest in found else config.model), newest
    return config.model, 0 if config.init else 1


def _open(folder: Path) -> tuple[Config, RunFolder]:
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder}: not a run's folder (config.yaml is missing); see stepagent iterate")
    return load_config(path), RunFolder(folder)


def deploy_run(folder: Path, index: int | None) -> None:
    """Put a run's newest model, or M_`index`, on the server that is running for it, and prove it."""
    config, run = _open(folder)
    model, newest = _newest(config, run)
    if index is not None and index != newest:
        model = str(run.model(index)) if index > 0 else config.model
        newest = index
    server = make_server(config, folder, running=True)
    if server is None:
        raise ConfigError(f"{folder}: this run asks its model in process; there is no server to deploy to")
    start = time.monotonic()
    _report(server.deploy(to_serve(config, run, model, newest)), time.monotonic() - start)


def serve_run(folder: Path) -> None:
    """Serve what a run last deployed, or its newest model, until Ctrl-C; a server that dies starts again."""
    config, run = _open(folder)
    if config.serve is None or config.serve.command is None:
        raise ConfigError(f"{folder}/config.yaml: serve.command is not set; it says how to start the server")
    if not os.environ.get(config.serve.api_key_env):
        raise ConfigError(
            f"set {config.serve.api_key_env} to a secret of your own first: the server asks for it, and who "
            "uses the server needs it too"
        )
    server = make_server(config, folder)
    assert server is not None
    with server:
        current = server.current
        model, index = (current.model, current.round) if current else _newest(config, run)
        server.start(model)
        _report(server.deploy(to_serve(config, run, model, index)), 0.0)
        console.print(
            f"serving at {server.base_url} as {server.name}; the API key is in ${config.serve.api_key_env}; "
            "Ctrl-C stops",
            highlight=False,
        )
        while True:
            if not server.process.alive():
                server.revive()
            time.sleep(0.5)
