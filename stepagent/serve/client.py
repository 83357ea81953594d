"""A client of a vLLM server for all but completions. The developer endpoints need VLLM_SERVER_DEV_MODE=1."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from stepagent.config.arguments import is_here
from stepagent.errors import ServeError

_PROMPTLY = 10.0  # seconds for a request that needs no work of the engine


class VllmClient:
    """A client of one server, by its base URL (ending in /v1), with a timeout in seconds. Its methods raise
    ServeError if the server fails, unless they say otherwise."""

    def __init__(self, base_url: str, api_key_env: str, timeout: float = 600) -> None:
        self.url = base_url.rstrip("/")
        self._root = self.url.removesuffix("/v1")
        self._timeout = timeout
        # a proxy is for other machines
        http_client = openai.DefaultHttpxClient(trust_env=not is_here(urlsplit(self._root).hostname or ""))
        weakref.finalize(self, http_client.close)  # openai closes only the clients that it makes itself
        key = os.environ.get(api_key_env) or "none"
        self._client = openai.OpenAI(base_url=self._root, api_key=key, max_retries=0, http_client=http_client)

    def _ask(self, verb: str, path: str, body: Any = None, *, timeout: float | None = None, kind: type = object) -> Any:
        """Send a request and return the reply as `kind`: plain data or, for str, its text."""
        options: Any = {"timeout": timeout or self._timeout}
        try:
            if verb == "get":
                return self._client.get(path, cast_to=kind, options=options)
            return self._client.post(path, cast_to=kind, body=body, options=options)
        except openai.AuthenticationError:
            raise ServeError(f"{self.url}: wrong API key; set serve.api_key_env's variable") from None
        except openai.OpenAIError as error:
            reason = str(error).partition("\n")[0][:300]
            raise ServeError(f"{self.url}: {path} failed ({reason})") from None

    def healthy(self) -> bool:
        """Return whether the server answers and its engine lives. Raises nothing."""
        return self._has("/health")

    def served(self) -> dict[str, str]:
        """Return the served models: name -> folder or hub id."""
        return {entry["id"]: str(entry.get("root") or "") for entry in self._models()}

    def window(self, name: str) -> int:
        """Return the number of tokens that a request to a model may hold, 2^20 if the server does not say."""
        entries = (entry for entry in self._models() if entry["id"] == name)
        return int(next(entries, {}).get("max_model_len") or 1 << 20)

    def _models(self) -> list[dict[str, Any]]:
        return list(self._ask("get", "/v1/models", timeout=_PROMPTLY)["data"])

    def reloads(self) -> bool:
        """Return whether the weights can be reloaded in place. Raises nothing."""
        return self._has("/is_paused")

    def sleeps(self) -> bool:
        """Return whether the server can be put to sleep. Raises nothing."""
        return self._has("/is_sleeping")

    def _has(self, path: str) -> bool:
        try:
            self._ask("get", path, timeout=_PROMPTLY)
        except ServeError:
            return False
        return True

    def reload(self, folder: Path) -> None:
        """Let running requests end, load the weights of `folder` in place, and empty the prefix cache. New
        requests wait meanwhile."""
        self._ask("post", "/pause?mode=wait")
        try:
            body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}
            self._ask("post", "/collective_rpc", body)
            self.forget_prefixes()
        except ServeError:
            with suppress(ServeError):  # an engine that died cannot go on
                self._ask("post", "/resume")
            raise
        self._ask("post", "/resume")

    def forget_prefixes(self) -> None:
        """Empty the prefix cache, whose entries were computed by other weights."""
        reply = self._ask("post", "/reset_prefix_cache")
        if isinstance(reply, dict) and reply.get("success") is False:
            raise ServeError(f"{self.url}: the prefix cache was not reset; requests are still running, end them")

    def load_adapter(self, name: str, folder: Path) -> None:
        """Serve an adapter's folder as `name`. Needs VLLM_ALLOW_RUNTIME_LORA_UPDATING and --enable-lora."""
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        self._ask("post", "/v1/load_lora_adapter", body, kind=str)

    def unload_adapter(self, name: str) -> None:
        """Stop serving the adapter `name`."""
        self._ask("post", "/v1/unload_lora_adapter", {"lora_name": name}, kind=str)

    def unload_adapters(self, keep: str) -> None:
        """Stop serving every adapter but `keep`."""
        for entry in self._models():
            if entry.get("parent") and entry["id"] != keep:
                self.unload_adapter(entry["id"])

    def sleep(self) -> None:
        """Give the device's memory back; the weights stay in main memory."""
        self._ask("post", "/sleep?level=1&mode=wait")

    def wake_if_asleep(self) -> None:
        """Take the device's memory again, if it was given back."""
        if self.sleeps() and self._ask("get", "/is_sleeping")["is_sleeping"]:
            self._ask("post", "/wake_up")

    def drain(self, patience: float = 60) -> None:
        """Wait until no request runs or waits, `patience` seconds at most. A server without such counts is
        taken to be idle."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self._running() > 0:
            time.sleep(0.05)

    def born(self) -> float | None:
        """Return when the server's process was started (seconds since 1970); None if it does not say."""
        return self._metric("process_start_time_seconds")

    def _running(self) -> float:
        return self._metric("vllm:num_requests_running", "vllm:num_requests_waiting{") or 0.0

    def _metric(self, *names: str) -> float | None:
        """Return the sum of the metrics whose names begin so; None if the server has none of them."""
        try:
            text = self._ask("get", "/metrics", timeout=_PROMPTLY, kind=str)
        except ServeError:
            return None
        values = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(names)]
        return sum(values) if values else None

    def logprobs(self, name: str, ids: Sequence[int]) -> list[float]:
        """Return the log-probability (nats) of each token of `ids` after the first, given those before it."""
        body = {"model": name, "prompt": list(ids), "max_tokens": 1, "prompt_logprobs": 0}
        reply = self._ask("post", "/v1/completions", body)
        try:
            rows = reply["choices"][0]["prompt_logprobs"][1:]
            return [float(row[str(token)]["logprob"]) for row, token in zip(rows, ids[1:], strict=True)]
        except (KeyError, TypeError, IndexError, ValueError):
            raise ServeError(
                f"{self.url}: no log-probabilities of the prompt, so the served model cannot be proven; "
                "deploy on a vLLM server"
            ) from None
