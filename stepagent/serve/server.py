"""The server of M_i, managed or external: one model after the other is put on it, and each is proven."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from stepagent.config.settings import ServeSettings
from stepagent.errors import ServeError
from stepagent.serve.client import VllmClient
from stepagent.serve.deployment import Deployment, Method, Record
from stepagent.serve.folders import (
    adapter_base,
    check_weights,
    local_folder,
    served_folder,
    served_weights,
    weights_sha256,
)
from stepagent.serve.process import Process
from stepagent.serve.proof import Proof, make_probes, prove
from stepagent.serve.revival import Revival
from stepagent.types import ModelVersion

_DEVELOPER = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
_NO_WINDOW = 1 << 20  # tokens: no sequence is as long


class Server:
    """A vLLM server: an external one at `base_url`, or, if that is None, a managed process, started when it
    is first needed. Its log and the record of its deployment lie in `folder`. `tell` receives a sentence
    before each thing that takes time."""

    def __init__(
        self,
        settings: ServeSettings,
        folder: Path,
        tell: Callable[[str], None],
        *,
        base_url: str | None = None,
        name: str | None = None,
    ) -> None:
        self.settings = settings
        self.managed = base_url is None
        self.base_url = base_url or f"http://{_in_url(settings.host)}:{settings.port}/v1"
        self.name = name or settings.name
        if self.managed and not os.environ.get(settings.api_key_env):
            os.environ[settings.api_key_env] = secrets.token_urlsafe(24)
        self.client = VllmClient(self.base_url, settings.api_key_env)
        self.record = Record(folder)
        self.process = Process(folder, tell)
        self._tell = tell
        self._revival = Revival(self, tell)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._revival.close()  # before the stop, or a thread that waits to revive the server would start it
        self.process.stop()

    @property
    def current(self) -> Deployment | None:
        """The deployment that was proven last; it counts only while the server runs."""
        return self.record.current()

    def up(self) -> bool:
        """Return whether the server can be asked now."""
        return (self.process.alive() if self.managed else True) and self.client.healthy()

    def start(self, model: str, name: str | None = None) -> None:
        """Start the managed process with `model`, again if it runs, and serve it as `name` too. Raises
        ServeError."""
        assert self.settings.command is not None
        folder = served_folder(model)
        source = str(folder.resolve()) if folder.is_dir() else model
        names = [name, self.name] if name and name != self.name else [self.name]
        options = ["--model", source, "--served-model-name", *names]
        options += ["--host", self.settings.host, "--port", str(self.settings.port)]
        self.process.start(
            [*self.settings.command, *options, *self.settings.args],
            {**_DEVELOPER, "VLLM_API_KEY": os.environ[self.settings.api_key_env], **self.settings.env},
            self.settings.host,
            port=self.settings.port,
            healthy=self.client.healthy,
            patience=self.settings.start_seconds,
        )

    def deploy(self, model: ModelVersion, against: str | None, sequences: Sequence[Sequence[int]]) -> Deployment:
        """Put `model` on the server and prove it, unless it is there already. The proof tells it apart from the
        model `against` (M_{i-1}), if there is one, by token ids on which the two may differ. On failure the model
        that was served comes back. Raises ServeError, or ModelError for weights that no server could load."""
        sha256 = weights_sha256(model.path)
        previous = self.current
        if self.up():
            self.client.wake_if_asleep()
        if previous and previous.sha256 == sha256 and self._serves(previous):
            return previous
        if Path(model.path).is_dir():
            check_weights(model.path, previous.version.path if previous else None)
        self._tell(f"probes of {model.path}")
        window = self.client.window(self.name) if self.up() else _NO_WINDOW
        fitting = [ids for ids in sequences if 1 < len(ids) < window]
        if not fitting:
            raise ServeError(
                f"no probe fits into the server's window of {window} tokens; start the server with a larger "
                "--max-model-len"
            )
        # A reload that does nothing leaves the model that is served now, so the proof has to rule out that
        # one; it is not M_{index-1} if a run went back to an older model.
        if previous and previous.sha256 != sha256:
            against = previous.version.path
        probes = make_probes(fitting, served_weights(model.path), served_weights(against) if against else None)

        def prove_name(name: str) -> Proof:
            return prove(probes, lambda ids: self.client.logprobs(name, ids))

        # Only a method that was begun can have changed the server: without one there is nothing to undo.
        attempts: list[Method] = []
        try:
            placement = self._find(model, previous, prove_name)
            if placement:
                method, name, proof = placement
            else:
                method = self._method(model, previous)
                attempts.append(method)
                name = self._put(method, model)
                proof = prove_name(name)
        except ServeError as failure:
            outcome = self._roll_back(previous, attempts) if attempts else "nothing was changed"
            raise ServeError(f"{model.path} was not deployed: {failure}; {outcome}") from None
        # Recorded after the proof alone, so that a killed run never takes an unproven model for served.
        deployment = Deployment(name, sha256, model, method=method, proof=proof)
        self.record.write(deployment, probes)
        self._revival.note_proof()
        return deployment

    def _serves(self, deployment: Deployment) -> bool:
        """Return whether the server runs and still serves `deployment`, proven by the recorded probes."""
        if not self.up():
            return False
        try:
            self.prove_again(deployment)
        except ServeError:
            return False
        self._revival.note_proof()
        return True

    def prove_again(self, deployment: Deployment) -> Proof:
        """Prove with the recorded probes that the server serves `deployment`. Raises ServeError."""
        return prove(self.record.probes(), lambda ids: self.client.logprobs(deployment.name, ids))

    def _find(
        self, model: ModelVersion, previous: Deployment | None, prove_name: Callable[[str], Proof]
    ) -> tuple[Method, str, Proof] | None:
        """Return how the server serves the model already, as after a restart by hand; None if it does not.
        Raises ServeError if it serves no model under the configured name."""
        if not self.up():
            return None
        sources = self.client.served()
        if self.name not in sources:
            raise ServeError(
                f"backend.model: {self.base_url} does not serve '{self.name}'; it has {', '.join(sources)}"
            )
        try:
            proof = prove_name(self.name)
        except ServeError:
            return None
        folders = {model.path, str(served_folder(model.path).resolve())}
        # A proof that is not distinct counts if the server names the folder and no record says otherwise.
        is_named = previous is None and sources[self.name] in folders
        return ("found", self.name, proof) if proof.outcome == "proven" or is_named else None

    def _method(self, model: ModelVersion, previous: Deployment | None) -> Method:
        """Return the cheapest way to put the model on the server, or the one that serve.redeploy names.
        Raises ServeError if there is none."""
        setting = self.settings.redeploy
        if self.managed and not self.up():
            return "restart"
        if setting != "auto":
            return setting
        if not self.up():
            raise ServeError(f"{self.base_url} does not answer; start the server")
        if self.client.reloads() and Path(model.path).is_dir():
            return "reload"
        base = adapter_base(model.path)
        if previous and base and previous.method != "adapter" and Path(previous.version.path) == base:
            return "adapter"
        if self.managed:
            return "restart"
        raise ServeError(
            f"{self.base_url} cannot reload weights (start it with VLLM_SERVER_DEV_MODE=1), the adapter's "
            "base is not what it serves, and stepagent did not start it; restart it with "
            f"--model {model.path} and run `stepagent deploy`"
        )

    def _put(self, method: Method, model: ModelVersion) -> str:
        """Put the model on the server; returns the name under which it is served. Raises ServeError."""
        self._tell(f"{method}: {model.path}")
        if method == "restart":
            if not self.managed:
                raise ServeError("serve.redeploy: restart needs serve.command")
            self.start(model.path)
            return self.name
        if method == "reload":
            self.client.reload(local_folder(model.path))
            return self.name
        self.client.drain()
        name = f"{self.name}-{model.index}"
        self.client.load_adapter(name, Path(model.path) / "adapter")
        return name

    def _roll_back(self, previous: Deployment | None, attempts: Sequence[Method]) -> str:
        """Bring back the model that was served, and prove it. Returns the outcome, as a clause for the error
        message."""
        if previous is None:
            return "there was no model to go back to"
        try:
            try:
                # The attempt's own way back is tried first: it takes seconds, a start takes minutes.
                if attempts == ["reload"]:
                    self.client.reload(local_folder(previous.version.path))
                elif attempts == ["adapter"]:
                    self.client.unload_adapters(keep=previous.name)
                # Proven even if nothing was undone: a failed attempt may have left the old model in place.
                proof = self.prove_again(previous)
            except ServeError:
                # A failed reload can end the engine; only a process of ours can then be started again.
                if not self.managed:
                    raise
                self.start(previous.version.path, previous.name)
                proof = self.prove_again(previous)
        except ServeError as failure:
            # No error is raised here, or it would hide why the deployment failed in the first place.
            if not self.up():
                return f"the server died; start it again with --model {previous.version.path}"
            return f"going back to {previous.version.path} failed too ({failure})"
        return f"{previous.version.path} is served again ({proof.to_new:.2g} nats per token from it)"

    async def ready(self, failed: bool) -> None:
        """Return once the server can be asked and serves the current deployment.

        `failed` is whether the attempt before this one failed. A managed server that died is started again;
        an external one that came back with other weights is given the current ones. Raises ServeError if that
        cannot be done.
        """
        if failed or (self.managed and (self._revival.in_progress or not self.process.alive())):
            await asyncio.to_thread(self.revive)

    async def ready_again(self, failed: bool) -> None:
        """Do as `ready` after a failure, but wait for no server that is down: another one takes its requests. Raises
        ServeError."""
        if not await asyncio.to_thread(self.up):
            raise ServeError(f"{self.base_url} does not answer")
        await self.ready(failed)

    def revive(self) -> None:
        """Bring the server back as `ready` does, whether or not a request failed. Raises ServeError."""
        self._revival.revive()

    def rest(self) -> None:
        """Make room for training as serve.while_training says: sleep, stop or keep the server. Raises
        ServeError."""
        setting = self.settings.while_training
        if not self.up():
            return
        if setting == "auto":
            if not (_is_local(self.base_url) and _has_gpu()):
                return
            setting = "sleep" if self.client.sleeps() else "stop" if self.managed else "keep"
        if setting == "sleep":
            self.client.sleep()
        elif setting == "stop":
            if not self.managed:
                raise ServeError("serve.while_training: stop needs serve.command")
            self.process.stop()


def _is_local(url: str) -> bool:
    """Return whether an address is this machine's."""
    return any(host in url for host in ("//127.", "//localhost", "//[::1]"))


def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _in_url(host: str) -> str:
    """Return a host as addresses write it: one of IPv6 stands in brackets."""
    return f"[{host}]" if ":" in host else host
