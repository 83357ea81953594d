"""Kind 3: replies with another form than promised, which are data and never an exception. Kind 6: the environment."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from faults import each_choice, each_message, edited, usage, wrong
from imitation import Reply, Request, Twist
from protocols import Vllm
from rows import Row, on, sampling, solving

_LOGPROB = {"kind": "logprob", "max_tokens": None}
_REWARD = {"kind": "prm", "max_tokens": None, "backend": {"kind": "prm_pooling", "base_url": "{url}", "model": "m"}}
_DEAD = "http://127.0.0.1:9"


def listing(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Twist:
    """Return the twist of another reply to GET /v1/models."""
    return on(lambda request: request.path.endswith("/models"), wrong(status, body, headers))


def path(name: str, body: Any, status: int = 200) -> Twist:
    """Return the twist of another reply at a path."""
    return on(lambda request: request.path == name, wrong(status, body))


def rewards(data: Any) -> Twist:
    """Return the twist of a reward model whose rows hold `data`."""
    return lambda request, reply: (
        Reply({"data": [{"data": data} for _ in request.body["input"]]}) if request.path == "/pooling" else reply
    )


def raw(change: Any) -> Twist:
    """Return the twist that changes the bytes of every sampled reply, head and all."""
    return lambda request, reply: replace(reply, wire=change(reply.packet())) if request.solves else reply


def compressed(packet: bytes) -> bytes:
    """Return a packet that calls itself compressed and is not."""
    return packet.replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type", 1)


def redirected(_: Request, reply: Reply) -> Reply:
    return Reply(b"", 307, {"Location": "/v1/chat/completions"})


def without_probabilities(body: dict[str, Any]) -> None:
    """Let every log-probability be null."""
    for choice in body["choices"]:
        if choice.get("logprobs"):
            choice["logprobs"]["content"][0]["top_logprobs"] = [{"token": "A", "logprob": None}]


_usages: dict[str, Any] = {
    "null": None,
    "a list": [],
    "a text": "none",
    "with nulls": {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    "with texts": {"prompt_tokens": "12", "completion_tokens": "7"},
    "with fractions": {"prompt_tokens": 12.5, "completion_tokens": 7.25},
    "beyond 64 bits": {"prompt_tokens": 10**30, "completion_tokens": 7},
    "negative": {"prompt_tokens": -1, "completion_tokens": -1},
}
_models: dict[str, Any] = {
    "a bare list": [{"id": "m", "object": "model"}, {"id": "other"}],
    "null": None,
    "null data": {"object": "list", "data": None},
    "without ids": {"object": "list", "data": [{"name": "m"}, None, "m"]},
    "a page of HTML": b"<html>Welcome</html>",
    "nothing": b"",
}
_bodies: dict[str, bytes] = {
    "null": b"null",
    "a list": b"[]",
    "a text": b'"ok"',
    "a number": b"7",
    "nothing": b"",
    "nested 100,000 deep": b"[" * 100_000,
    "HTML": b"<html><body>It works!</body></html>",
    "choices null": b'{"choices": null}',
    "choices an object": b'{"choices": {"0": {}}}',
    "a choice null": b'{"choices": [null, null]}',
    "a message null": b'{"choices": [{"message": null, "finish_reason": "stop"}]}',
}
_metrics = {
    "words": b"vllm:prefix_cache_hits_total many\nvllm:prefix_cache_queries_total lots\n",
    "bytes": b"\xff\xfe\x00vllm:prefix_cache_queries_total \xff\n",
    "not a number": b"vllm:prefix_cache_hits_total NaN\nvllm:prefix_cache_queries_total NaN\n",
}


def old_store(folder: Path) -> None:
    """Write a response store of another schema."""
    with sqlite3.connect(folder / "responses.sqlite") as store:
        store.execute("CREATE TABLE responses (hash TEXT PRIMARY KEY, reply BLOB)")
    store.close()


def spoil(folder: Path) -> None:
    """Write a response store that is no database."""
    (folder / "responses.sqlite").write_bytes(b"not a database" * 100)


DATA = [
    *(Row(f"usage {name}", 3, usage(value), ended=3, patience=3) for name, value in _usages.items()),
    Row("usage missing", 3, edited(lambda body: body.pop("usage")), ended=3),
    *(Row(f"the list of models is {name}", 3, listing(body), ended=3) for name, body in _models.items()),
    Row("the list of models is forbidden", 3, listing({"error": {"message": "no"}}, 401), ended=3),
    Row("the list of models fails", 3, listing({"error": {"message": "no"}}, 500), ended=3),
    *(
        Row(f"a reply is {name}", 3, on(sampling, wrong(200, body)), code=2, patience=8, again="goes on")
        for name, body in _bodies.items()
    ),
    Row("half a surrogate pair", 3, on(solving, each_message(lambda text: text + " \ud83d")), ended=3),
    Row(
        "bytes that are no UTF-8",
        3,
        raw(lambda packet: packet.replace(b"apple", b"\xff\xfe\xfd12")),
        ended=3,
        code=(0, 2),
    ),
    Row("a zero character", 3, on(solving, each_message(lambda text: text.replace("apple", "ap\0le"))), ended=3),
    Row("content is a number", 3, on(solving, each_message(lambda _: 7)), code=(0, 2)),
    Row("content is an object", 3, on(solving, each_message(lambda _: {"text": "x"})), code=(0, 2)),
    Row("a finish reason that is a list", 3, each_choice(finish_reason=["stop"]), code=(0, 2), patience=8),
    Row("a header over 8 kB", 3, lambda _, reply: replace(reply, headers={"X-Policy": "x" * 9000}), ended=3),
    Row("gzip that is none", 3, raw(compressed), code=2, patience=8, again="goes on"),
    Row("a redirect in a circle", 3, on(sampling, redirected), code=2, patience=8, again="goes on"),
    Row(
        "a status without a name",
        3,
        on(solving, wrong(599, {"error": {"message": "strange"}})),
        code=2,
        says=("strange",),
        patience=8,
    ),
    Row("204 without content", 3, on(solving, wrong(204, b"")), code=2, patience=8, again="goes on"),
    Row(
        "a log-probability is null",
        3,
        edited(without_probabilities),
        settings={"judge": _LOGPROB},
        command="judge",
        code=(0, 2),
    ),
    Row(
        "log-probabilities are null",
        3,
        each_choice(logprobs=None),
        settings={"judge": _LOGPROB},
        command="judge",
        code=2,
        says=("log-prob",),
    ),
    Row(
        "the content of log-probabilities is null",
        3,
        each_choice(logprobs={"content": None}),
        settings={"judge": _LOGPROB},
        command="judge",
        code=2,
        says=("log-prob",),
    ),
    Row(
        "a reward of -800",
        3,
        rewards([[-800.0]]),
        settings={"judge": _REWARD},
        command="judge",
        verdicts=("no_signal",) * 3,
    ),
    Row("a reward of null", 3, rewards([[None]]), settings={"judge": _REWARD}, command="judge", code=(0, 2)),
    Row("a reward in words", 3, rewards([["high"]]), settings={"judge": _REWARD}, command="judge", code=(0, 2)),
    Row("rewards of no token", 3, rewards([]), settings={"judge": _REWARD}, command="judge", code=(0, 2), patience=8),
    *(Row(f"metrics in {name}", 3, path("/metrics", body), protocol=Vllm, ended=3) for name, body in _metrics.items()),
    Row(
        "a window of null",
        3,
        path("/tokenize", {"tokens": [1, 2, 3], "max_model_len": None}),
        protocol=Vllm,
        ended=3,
        patience=8,
    ),
    Row("tokens are null", 3, path("/tokenize", {"tokens": None}), protocol=Vllm, ended=3),
    Row(
        "tokens are texts",
        3,
        path("/tokenize", {"tokens": ["a", "b"], "max_model_len": 8}),
        protocol=Vllm,
        code=(0, 2),
        patience=8,
    ),
    Row("the tokenizer's page is HTML", 3, path("/tokenize", b"<html>Welcome</html>"), protocol=Vllm, ended=3),
    Row("the tokenizer fails", 3, path("/tokenize", {"error": "no"}, 500), protocol=Vllm, ended=3, patience=8),
    Row("the tokenizer wants a key", 3, path("/tokenize", {"error": "no"}, 401), protocol=Vllm, ended=3),
    Row(
        "a vLLM reply without log-probabilities",
        3,
        each_choice(logprobs=None),
        protocol=Vllm,
        code=(0, 2),
        patience=8,
    ),
    Row("a store of another schema", 3, prepare=old_store, code=2, says=(r"responses\.sqlite",)),
    Row("a store that is no database", 3, prepare=spoil, code=2, says=(r"responses\.sqlite",)),
    Row("a key with a newline at its end", 3, env={"OPENAI_API_KEY": "sk-test\n"}, ended=3),
    Row("a key with a newline inside", 3, env={"OPENAI_API_KEY": "sk\ntest"}, code=2, says=("OPENAI_API_KEY",)),
    Row("a key beyond ASCII", 3, env={"OPENAI_API_KEY": "schlüssel…"}, code=2, says=("OPENAI_API_KEY",)),
    Row("a socks proxy", 3, env={"ALL_PROXY": "socks5://127.0.0.1:9"}, ended=3),
    Row("http_proxy and a server on the loopback", 6, env={"http_proxy": _DEAD}, ended=3),
    Row("HTTP_PROXY and HTTPS_PROXY", 6, env={"HTTP_PROXY": _DEAD, "HTTPS_PROXY": _DEAD, "ALL_PROXY": _DEAD}, ended=3),
    Row("a proxy without a scheme", 6, env={"http_proxy": "127.0.0.1:9"}, ended=3),
    Row("a proxy that is no address", 6, env={"http_proxy": "none"}, ended=3),
    Row("a socks proxy with an unknown scheme", 6, env={"all_proxy": "socks://127.0.0.1:9"}, ended=3),
    Row("certificates that are not there", 6, env={"SSL_CERT_FILE": "/no/such/file.pem"}, ended=3),
    Row(
        "a proxy in front of a hosted API",
        6,
        env={"http_proxy": _DEAD},
        settings={"backend": {"base_url": "http://api.invalid/v1"}},
        code=2,
        says=("(?i)http_proxy",),
        patience=8,
    ),
    Row("another base in OPENAI_BASE_URL", 6, env={"OPENAI_BASE_URL": f"{_DEAD}/v1"}, ended=3),
    Row("an empty key", 6, env={"OPENAI_API_KEY": ""}, ended=3),
]
