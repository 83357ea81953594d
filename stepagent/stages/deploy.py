"""Stage: M_i onto the server that answers for it; `stepagent deploy` and `stepagent serve`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stepagent.assembly.components import check_serving
from stepagent.assembly.session import Session
from stepagent.config.loading import load_config
from stepagent.config.settings import Config, ServeSettings
from stepagent.console import Ticker, console, table
from stepagent.errors import ConfigError, ServeError
from stepagent.files.jsonl import iter_json
from stepagent.files.problems import ProblemFile
from stepagent.files.runs import newest_model
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.serve.deployment import Deployment
from stepagent.serve.server import Server
from stepagent.stages.train import sft_rows, solve_prompt
from stepagent.types import ModelVersion

PROBES = 32  # sequences among which those are found on which two models differ most


class Serving:
    """The server of a run, or its servers, with one model after the other put on each. See Served."""

    def __init__(self, session: Session, servers: Sequence[Server]) -> None:
        self._session = session
        self._servers = servers

    def connection(self, model: ModelVersion) -> Mapping[str, object]:
        """Put `model` on the servers, proven one by one, and return the arguments with which a backend asks them.
        Raises ServeError or ModelError."""
        deployments = [self._deploy(server, model) for server in self._servers]
        names = list(dict.fromkeys(deployment.name for deployment in deployments))
        if len(names) > 1:
            raise ServeError(
                f"the servers serve {model.path} under several names ({', '.join(names)}), by different ways of "
                "deployment; set serve.redeploy to one that all of them have"
            )
        first, several = self._servers[0], len(self._servers) > 1
        return {
            "model": names[0],
            "base_url": [server.base_url for server in self._servers] if several else first.base_url,
            "version": deployments[0].sha256,
            "tokenizer": model.path,
            "ready": [server.ready_again for server in self._servers] if several else first.ready,
            "api_key_env": first.settings.api_key_env,
        }

    def _deploy(self, server: Server, model: ModelVersion) -> Deployment:
        start = time.monotonic()
        current = server.current
        deployment = put(server, self._session, model)
        if deployment != current:
            _report(server, deployment, time.monotonic() - start)
        return deployment

    def rest(self) -> None:
        """Make room for training on a device that the servers share."""
        for server in self._servers:
            server.rest()


@contextmanager
def serving(session: Session) -> Iterator[None]:
    """Give the session the servers that its config names, if it names one; a managed server runs as long as the
    block."""
    servers = make_servers(session.config, session.folder)
    with ExitStack() as running:
        if servers:
            session.served = Serving(session, [running.enter_context(server) for server in servers])
        yield


def deploy(session: Session, model: ModelVersion, name: str) -> None:
    """Stage `name`: put `model` on the run's server, if it has one."""
    serving = session.served
    if serving is None:
        return
    session.run_folder.stage(
        name,
        inputs={"model": Path(model.path)},
        outputs={},
        identity=session.config.model_dump(mode="json")["serve"],
        work=lambda: serving.connection(model),
    )


def check_server(session: Session) -> None:
    """Raise ConfigError for a server that could not be made."""
    make_servers(session.config, session.folder)


def make_servers(config: Config, folder: Path, running: bool = False) -> list[Server]:
    """Return the servers that the config names: a managed one, external ones, or none. `running`: a managed one is up
    already and belongs to another process. Raises ConfigError."""
    check_serving(config)
    if config.backend.kind != "openai":
        return []
    arguments, settings = config.backend.arguments(), config.serve
    addresses = arguments.get("base_url")
    external = list(addresses) if isinstance(addresses, list) else [addresses]
    if settings is None or settings.command is None:
        settings = settings or ServeSettings()
        key = arguments.get("api_key_env", "OPENAI_API_KEY")
        settings = settings.model_copy(update={"api_key_env": key})
    elif running:
        external = [f"http://{settings.host}:{settings.port}/v1"]
    name = str(arguments.get("model") or settings.name)
    return [
        Server(settings, folder / (f"server_{place}" if place > 1 else "server"), Ticker(), base_url=url, name=name)
        for place, url in enumerate(external, start=1)
    ]


def put(server: Server, session: Session, model: ModelVersion) -> Deployment:
    """Put `model` on the server, told apart from the model before it. Raises ServeError or ModelError."""
    config, index = session.config, model.index or 0
    before = session.run_folder.model(index - 1)
    against = before.path if Path(before.path).is_dir() else config.model if config.model != model.path else None
    return server.deploy(model, against if index > 0 else None, _sequences(session, model))


def _sequences(session: Session, model: ModelVersion) -> list[tuple[int, ...]]:
    """Token ids that the new model was trained on, else the problems: drawn by seed, so that a run proves on the
    same ones."""
    config, index = session.config, model.index or 0
    rng = random.Random(config.seed)
    preferences = session.run_folder.round(index - 1) / "preferences.jsonl"
    if preferences.is_file() and (sequences := trained_sequences(preferences, config.seed)):
        return sequences
    tokenizer = ChatTokenizer(model.path)
    if config.init:
        examples = sft_rows(config, config.init)
        drawn_examples = rng.sample(examples, min(PROBES, len(examples)))
        return [tokenizer.prompt_ids(row.messages, row.response) for row in drawn_examples]
    problems = list(ProblemFile.of(config.problems, session.folder))
    solve = solve_prompt(config)
    drawn_problems = rng.sample(problems, min(PROBES, len(problems)))
    return [tokenizer.prompt_ids(solve.messages({"question": problem.question})) for problem in drawn_problems]


def trained_sequences(preferences: Path, seed: int) -> list[tuple[int, ...]]:
    """Return the token ids of contexts with their chosen steps, drawn by seed from a file of preferences; none if no
    row has ids."""
    rows = [row for _, row in iter_json(preferences) if row.get("prompt_ids") and row.get("chosen_ids")]
    drawn_rows = random.Random(seed).sample(rows, min(PROBES, len(rows)))
    return [(*row["prompt_ids"], *row["chosen_ids"]) for row in drawn_rows]


def _report(server: Server, deployment: Deployment, seconds: float) -> None:
    proof = deployment.proof
    rows: dict[str, object] = {
        "server": server.base_url,
        "served name": deployment.name,
        "weights (sha256)": deployment.sha256[:16],
        "method": deployment.method,
        "proof": proof.outcome,
        "nats per token from it": proof.to_new,
    }
    if proof.to_old is not None:
        rows["nats per token from the model before"] = proof.to_old
    table(f"Deployment of {deployment.version.path}", {**rows, "seconds": round(seconds, 2)}, ("method", "proof"))
    if proof.outcome == "indistinct":
        console.print("the two models are too close to be told apart at the server's precision", style="yellow")


def _open(folder: Path) -> Session:
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder}: not a run's folder (config.yaml is missing); see stepagent iterate")
    return Session(load_config(path), folder, serves=True)


def deploy_command(folder: Path, index: int | None) -> None:
    """Put a run's newest model, or M_`index`, on the server that is running for it, and prove it."""
    with _open(folder) as session:
        config, run = session.config, session.run_folder
        model = newest_model(config, run)
        if index is not None and index != model.index:
            model = run.model(index) if index > 0 else ModelVersion(0, config.model)
        servers = make_servers(config, folder, running=True)
        if not servers:
            raise ConfigError(f"{folder}: this run asks its model in process; there is no server to deploy to")
        for server in servers:
            start = time.monotonic()
            _report(server, put(server, session, model), time.monotonic() - start)


def serve_command(folder: Path) -> None:
    """Serve the model that a run deployed last, or its newest one, until Ctrl-C; a server that dies starts again."""
    with _open(folder) as session:
        config = session.config
        if config.serve is None or config.serve.command is None:
            raise ConfigError(f"{folder}/config.yaml: serve.command is not set; it says how to start the server")
        if not os.environ.get(config.serve.api_key_env):
            raise ConfigError(
                f"set {config.serve.api_key_env} to a secret of your own first: the server asks for it, and everyone "
                "who uses the server needs it too"
            )
        (server,) = make_servers(config, folder)
        with server:
            current = server.current
            model = current.version if current else newest_model(config, session.run_folder)
            server.start(model.path)
            _report(server, put(server, session, model), 0.0)
            console.print(
                f"serving at {server.base_url} as {server.name}; the API key is in ${config.serve.api_key_env}; "
                "Ctrl-C stops",
                highlight=False,
            )
            while True:
                if not server.process.alive():
                    server.revive()
                time.sleep(0.5)
