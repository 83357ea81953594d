"""What is asked of a vLLM server beyond completions. Its developer endpoints need VLLM_SERVER_DEV_MODE=1."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai

from stepagent.errors import ServeError

_PROMPTLY = 10.0  # seconds for what needs no work of the engine


class VllmClient:
    """One server, by its base URL (ending in /v1). Every method raises ServeError if the server fails."""

    def __init__(self, base_url: str, api_key_env: str, timeout: float = 600) -> None:
        self.url = base_url.rstrip("/")
        self._root = self.url.removesuffix("/v1")
        self._timeout = timeout
        self._client = openai.OpenAI(
            base_url=self._root, api_key=os.environ.get(api_key_env) or "none", max_retries=0
        )

    def _ask(
        self, verb: str, path: str, body: Any = None, timeout: float | None = None, kind: type = object
    ) -> Any:
        options: Any = {"timeout": timeout or self._timeout}
        try:
            if verb == "get":
                return self._client.get(path, cast_to=kind, options=options)
            return self._client.post(path, cast_to=kind, body=body, options=options)
        except openai.AuthenticationError:
            raise ServeError(f"{self.url}: wrong API key; set serve.api_key_env's variable") from None
        except openai.OpenAIError as error:
            what = str(error).partition("\n")[0][:300]
            raise ServeError(f"{self.url}: {path} failed ({what})") from None

    def healthy(self) -> bool:
        """Whether the server answers and its engine lives."""
        return self._has("/health")

    def served(self) -> dict[str, str]:
        """What is served: name -> the folder or hub id behind it."""
        return {entry["id"]: str(entry.get("root") or "") for entry in self._models()}

    def window(self, name: str) -> int:
        """How many tokens a request may hold."""
        found = (int(it.get("max_model_len") or 1 << 20) for it in self._models() if it["id"] == name)
        return next(found, 1 << 20)

    def _models(self) -> list[dict[str, Any]]:
        return list(self._ask("get", "/v1/models", timeout=_PROMPTLY)["data"])

    def reloads(self) -> bool:
        """Whether the weights can be reloaded in place."""
        return self._has("/is_paused")

    def sleeps(self) -> bool:
        """Whether the server can be put to sleep."""
        return self._has("/is_sleeping")

    def _has(self, path: str) -> bool:
        try:
            self._ask("get", path, timeout=_PROMPTLY)
        except ServeError:
            return False
        return True

    def reload(self, folder: Path) -> None:
        """Let running requests end, load the weights of `folder` in place, forget cached prefixes. New
        requests wait meanwhile."""
        self._ask("post", "/pause?mode=wait")
        try:
            wanted = {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}
            self._ask("post", "/collective_rpc", wanted)
            self.forget_prefixes()
        except ServeError:
            with suppress(ServeError):  # an engine that died cannot go on
                self._ask("post", "/resume")
            raise
        self._ask("post", "/resume")

    def forget_prefixes(self) -> None:
        """Empty the prefix cache: what it holds was computed by other weights."""
        reply = self._ask("post", "/reset_prefix_cache")
        if isinstance(reply, dict) and reply.get("success") is False:
            raise ServeError(f"{self.url}: the prefix cache was not reset; requests are still running")

    def load_adapter(self, name: str, folder: Path) -> None:
        """Serve an adapter's folder as `name`. Needs VLLM_ALLOW_RUNTIME_LORA_UPDATING and --enable-lora."""
        wanted = {"lora_name": name, "lora_path": str(folder.resolve())}
        self._ask("post", "/v1/load_lora_adapter", wanted, kind=str)

    def unload_adapter(self, name: str) -> None:
        """Serve it no more."""
        self._ask("post", "/v1/unload_lora_adapter", {"lora_name": name}, kind=str)

    def unload_adapters(self, keep: str) -> None:
        """Serve no adapter but `keep`."""
        for entry in self._models():
            if entry.get("parent") and entry["id"] != keep:
                self.unload_adapter(entry["id"])

    def sleep(self) -> None:
        """Give the device's memory back; the weights wait in main memory."""
        self._ask("post", "/sleep?level=1&mode=wait")

    def wake_if_asleep(self) -> None:
        """Take the device again."""
        if self.sleeps() and self._ask("get", "/is_sleeping")["is_sleeping"]:
            self._ask("post", "/wake_up")

    def drain(self, patience: float = 60) -> None:
        """Wait until no request runs or waits. Servers that count none are taken to be idle."""
        end = time.monotonic() + patience
        while time.monotonic() < end and self._running() > 0:
            time.sleep(0.05)

    def born(self) -> float | None:
        """When the server's process was started; None if it does not say."""
        return self._metric("process_start_time_seconds")

    def _running(self) -> float:
        return self._metric("vllm:num_requests_running", "vllm:num_requests_waiting{") or 0.0

    def _metric(self, *names: str) -> float | None:
        """The sum of what is counted under `names`; None if the server counts none of them."""
        try:
            text = self._ask("get", "/metrics", timeout=_PROMPTLY, kind=str)
        except ServeError:
            return None
        values = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(names)]
        return sum(values) if values else None

    def logprobs(self, name: str, ids: Sequence[int]) -> list[float]:
        """The log-probability (nats) of each token of `ids` after the first, given those before it."""
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
