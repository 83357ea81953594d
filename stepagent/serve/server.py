"""The server of M_i: managed or external, with one model after the other put on it, each proven."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from stepagent.config.settings import ServeSettings
from stepagent.errors import ServeError
from stepagent.serve.client import VllmClient
from stepagent.serve.deployment import (
    Deployment,
    Method,
    Record,
    check_weights,
    served_folder,
    weights_sha256,
)
from stepagent.serve.process import Process
from stepagent.serve.proof import Proof, make_probes, prove

_RESTARTS = 5  # of a server that keeps dying before the run gives up
_DEVELOPER = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
_CHECKED = 2.0  # seconds for which a look at the server holds


@dataclass(frozen=True, slots=True)
class Model:
    """A model to serve: M_`index`, and the one it is told apart from (M_{index-1}), if there is one.
    `sequences` are token ids on which the two may differ."""

    path: str
    index: int
    against: str | None
    sequences: Sequence[Sequence[int]]


class Server:
    """Managed if `base_url` is None: then a process of ours, started when it is first needed. Its log and the
    record of what it serves lie in `folder`. `tell` hears what takes time."""

    def __init__(
        self,
        settings: ServeSettings,
        folder: Path,
        tell: Callable[[str], None],
        base_url: str | None = None,
        name: str | None = None,
    ) -> None:
        self.settings = settings
        self.managed = base_url is None
        self.base_url = base_url or f"http://{settings.host}:{settings.port}/v1"
        self.name = name or settings.name
        if self.managed and not os.environ.get(settings.api_key_env):
            os.environ[settings.api_key_env] = secrets.token_urlsafe(24)
        self.client = VllmClient(self.base_url, settings.api_key_env)
        self.record = Record(folder)
        self.process = Process(folder)
        self._tell = tell
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._given_up: ServeError | None = None
        self._restarts = 0
        self._reviving = False
        self._born: float | None = None
        self._looked = 0.0

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()  # a thread that waits to revive the server must not start it after us
        self.process.stop()

    @property
    def current(self) -> Deployment | None:
        """What was proven last; it counts only while the server runs."""
        return self.record.current()

    def up(self) -> bool:
        """Whether the server can be asked now."""
        return (self.process.alive() if self.managed else True) and self.client.healthy()

    def start(self, model: str, name: str | None = None) -> None:
        """(Re)start the managed process with `model`. Raises ServeError."""
        assert self.settings.command is not None
        folder = served_folder(model)
        where = str(folder.resolve()) if folder.is_dir() else model
        names = [name, self.name] if name and name != self.name else [self.name]
        given = ["--model", where, "--served-model-name", *names]
        given += ["--host", self.settings.host, "--port", str(self.settings.port)]
        self.process.start(
            [*self.settings.command, *given, *self.settings.args],
            {**_DEVELOPER, "VLLM_API_KEY": os.environ[self.settings.api_key_env], **self.settings.env},
            self.settings.host,
            self.settings.port,
            self.client.healthy,
            self.settings.start_seconds,
            self._tell,
        )

    def deploy(self, model: Model) -> Deployment:
        """Put `model` on the server and prove it; nothing is done if it is there. On failure the model that
        was served comes back. Raises ServeError, or ModelError for weights that no server could load."""
        sha256 = weights_sha256(model.path)
        before = self.current
        if self.up():
            self.client.wake_if_asleep()
        if before and before.sha256 == sha256 and self._serves(before):
            return before
        if Path(model.path).is_dir():
            check_weights(model.path, before.model if before else None)
        self._tell(f"probes of {model.path}")
        window = self.client.window(self.name) if self.up() else 1 << 20
        fitting = [ids for ids in model.sequences if 1 < len(ids) < window]
        if not fitting:
            raise ServeError(f"no probe fits into the server's window of {window} tokens; raise it")
        # what is served now is what a reload that does nothing would leave there
        against = before.model if before and before.sha256 != sha256 else model.against
        probes = make_probes(fitting, _weights(model.path), _weights(against) if against else None)

        def shown(name: str) -> Proof:
            return prove(probes, lambda ids: self.client.logprobs(name, ids))

        tried: list[Method] = []
        try:
            found = self._found(model, before, shown)
            if found:
                method, name, proof = found
            else:
                method = self._method(model, before)
                tried.append(method)
                name = self._put(method, model)
                proof = shown(name)
        except ServeError as failure:
            back = self._roll_back(before, tried) if tried else "nothing was changed"
            raise ServeError(f"{model.path} was not deployed: {failure}; {back}") from None
        done = Deployment(name, sha256, model.index, method, model.path, proof)
        self.record.write(done, probes)
        self._born = self.client.born()
        return done

    def _serves(self, deployment: Deployment) -> bool:
        """Whether the server runs and still is what the record says, proven by the recorded probes."""
        if not self.up():
            return False
        try:
            self._prove_again(deployment)
        except ServeError:
            return False
        self._born = self.client.born()
        return True

    def _prove_again(self, deployment: Deployment) -> Proof:
        return prove(self.record.probes(), lambda ids: self.client.logprobs(deployment.name, ids))

    def _found(
        self, model: Model, before: Deployment | None, shown: Callable[[str], Proof]
    ) -> tuple[Method, str, Proof] | None:
        """The model, if the server serves it already, as after a restart by hand."""
        if not self.up():
            return None
        served = self.client.served()
        if self.name not in served:
            raise ServeError(
                f"backend.model: {self.base_url} does not serve '{self.name}'; it has {', '.join(served)}"
            )
        try:
            proof = shown(self.name)
        except ServeError:
            return None
        folders = {model.path, str(served_folder(model.path).resolve())}
        same = before is None and served[self.name] in folders
        return ("found", self.name, proof) if proof.outcome == "proven" or same else None

    def _method(self, model: Model, before: Deployment | None) -> Method:
        wanted = self.settings.redeploy
        if self.managed and not self.up():
            return "restart"
        if wanted != "auto":
            return wanted
        if not self.up():
            raise ServeError(f"{self.base_url} does not answer; start the server")
        if self.client.reloads() and Path(model.path).is_dir():
            return "reload"
        based_on = _adapter_base(model.path)
        if before and based_on and before.method != "adapter" and Path(before.model) == based_on:
            return "adapter"
        if self.managed:
            return "restart"
        raise ServeError(
            f"{self.base_url} cannot reload weights (start it with VLLM_SERVER_DEV_MODE=1), the adapter's "
            "base is not what it serves, and stepagent did not start it; restart it with "
            f"--model {model.path} and run `stepagent deploy`"
        )

    def _put(self, method: Method, model: Model) -> str:
        """Do it; returns the name the model is served under."""
        self._tell(f"{method}: {model.path}")
        if method == "restart":
            if not self.managed:
                raise ServeError("serve.redeploy: restart needs serve.command")
            self.start(model.path)
            return self.name
        if method == "reload":
            self.client.reload(_loadable(model.path))
            return self.name
        self.client.drain()
        name = f"{self.name}-{model.index}"
        self.client.load_adapter(name, Path(model.path) / "adapter")
        return name

    def _roll_back(self, before: Deployment | None, tried: Sequence[Method]) -> str:
        """Bring back what was served, and prove it. Returns what to say of it."""
        if before is None:
            return "there was no model to go back to"
        try:
            try:
                if tried == ["reload"]:
                    self.client.reload(_loadable(before.model))
                elif tried == ["adapter"]:
                    self.client.unload_adapters(keep=before.name)
                proof = self._prove_again(before)
            except ServeError:
                if not self.managed:
                    raise
                self.start(before.model, before.name)
                proof = self._prove_again(before)
        except ServeError as failure:
            if not self.up():
                return f"the server died; start it again with --model {before.model}"
            return f"going back to {before.model} failed too ({failure})"
        return f"{before.model} is served again ({proof.to_new:.2g} nats per token from it)"

    async def ready(self, failed: bool) -> None:
        """Return once the server can be asked and serves the current deployment; `failed` says that the
        attempt before this one failed. A managed server that died is started again; an external one that came
        back with other weights is given the current ones. Raises ServeError if that cannot be done."""
        if failed or (self.managed and (self._reviving or not self.process.alive())):
            await asyncio.to_thread(self.revive)

    def revive(self) -> None:
        """See `ready`. What could not be revived once is not tried again."""
        with self._lock:
            if self._given_up is not None:
                raise self._given_up
            try:
                self._revive()
            except ServeError as failure:
                self._given_up = failure
                raise

    def _revive(self) -> None:
        current = self.current
        stands = not self.managed or (self.process.alive() and not self._reviving)
        if current is None or (stands and time.monotonic() - self._looked < _CHECKED):
            return
        self._looked = time.monotonic()
        if self.managed:
            if not self._reviving and self.up():
                return
            if self._closed.is_set():
                raise ServeError("the run is over; its server is not started again")
            self._restarts += 1
            if self._restarts > _RESTARTS:
                raise ServeError(f"the server died {self._restarts} times; see {self.process.log}")
            self._tell(f"the server died; it is started again with {current.model}")
            self._reviving = True  # a process that starts is alive, but cannot be asked yet
            self.start(current.model, current.name)
            self._prove_again(current)
            self._reviving = False
            self._looked = time.monotonic()
            return
        end = time.monotonic() + self.settings.start_seconds
        while not self.client.healthy():
            if time.monotonic() > end or self._closed.is_set():
                raise ServeError(f"{self.base_url} does not answer any more")
            self._tell(f"waiting for {self.base_url}")
            time.sleep(1)
        self._looked = time.monotonic()
        if self.client.born() != self._born:
            self._tell(f"the server was restarted; it is given {current.model}")
            self._restore(current)

    def _restore(self, current: Deployment) -> None:
        try:
            self._prove_again(current)
        except ServeError:
            if current.method == "adapter":
                self.client.load_adapter(current.name, Path(current.model) / "adapter")
            else:
                self.client.reload(_loadable(current.model))
            self._prove_again(current)
        self._born = self.client.born()

    def rest(self) -> None:
        """Make room for training, as serve.while_training says."""
        wanted = self.settings.while_training
        if not self.up():
            return
        if wanted == "auto":
            if not (_here(self.base_url) and _has_gpu()):
                return
            wanted = "sleep" if self.client.sleeps() else "stop" if self.managed else "keep"
        if wanted == "sleep":
            self.client.sleep()
        elif wanted == "stop":
            if not self.managed:
                raise ServeError("serve.while_training: stop needs serve.command")
            self.process.stop()


def _weights(model: str) -> str | Path:
    """A folder's served weights, or a hub id as it is."""
    folder = served_folder(model)
    return folder if folder.is_dir() else model


def _loadable(model: str) -> Path:
    """The folder of a model, also of a hub id that was downloaded. Raises ServeError."""
    folder = served_folder(model)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError):
        raise ServeError(f"{model}: not a folder and not downloaded, so it cannot be reloaded") from None


def _adapter_base(model: str) -> Path | None:
    import json

    try:
        text = (Path(model) / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
        return Path(json.loads(text)["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _here(url: str) -> bool:
    return any(host in url for host in ("//127.", "//localhost", "//[::1]"))


def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
