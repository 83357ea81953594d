"""Kind 7: the server's own words and the cause, in the sentence that the user reads. Kinds 3 and 6 with a managed
server are here too."""

from __future__ import annotations

from faults import drop, error, slow, wrong
from rows import Row, Run, on, sampling, solving

_BROKE = error(402, "Insufficient credits", code=402)
_PANEL = {"kind": "panel", "max_tokens": None, "judges": [{"kind": "pairwise"}, {"kind": "pointwise"}]}
_REWARD = {"kind": "prm", "max_tokens": None, "backend": {"kind": "prm_pooling", "base_url": "{url}", "model": "m"}}
_HTML = {"Content-Type": "text/html"}
_LONG = "This model's maximum context length is 4096 tokens"

_WARNS = """
import sys
print("INFO 01-01 loading model")
print("ValueError: No available memory for the cache blocks. Try increasing gpu_memory_utilization.")
print("WARNING 01-01 [utils.py:99] Error handling is not set, RuntimeError may be hidden")
print("WARNING 01-01 process group has NOT been destroyed")
sys.exit(1)
"""
_ENDS = """
import sys
print("Traceback (most recent call last):")
print('  File "engine.py", line 1, in run')
print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
print("RuntimeError: Engine core initialization failed. See root cause above.")
sys.exit(1)
"""
_HEALTHY = """
import http.server, socket, sys
arguments = dict(zip(sys.argv, sys.argv[1:]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *a): pass
class Server(http.server.HTTPServer):
    address_family = socket.AF_INET6 if ":" in arguments["--host"] else socket.AF_INET
Server((arguments["--host"], int(arguments["--port"])), Handler).serve_forever()
"""


def managed(program: str, host: str = "127.0.0.1") -> dict[str, object]:
    """Return the settings of a server that is a Python program."""
    serve = {"command": ["{python}", "-c", program], "host": host, "port": free_port(), "start_seconds": 3}
    return {"serve": serve}


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_started(run: Run) -> None:
    """Check that the server was reached: the command then fails for want of a model, not of a server."""
    assert "did not answer" not in run.words, run.words
    assert "getaddrinfo" not in run.words, run.words
    assert "taken by another" not in run.words, run.words


_bodies: list[tuple[int, object, str, str]] = [
    (
        400,
        {"object": "error", "message": "Invalid model: mistral-tiny", "type": "invalid_model"},
        "Invalid model",
        "json",
    ),
    (
        422,
        {"detail": [{"loc": ["body"], "msg": "field required: inputs", "type": "missing"}]},
        "field required",
        "json",
    ),
    (400, {"detail": "Model is not ready"}, "Model is not ready", "json"),
    (
        422,
        {"error": "Input validation error: inputs must be shorter", "error_type": "validation"},
        "Input validation",
        "json",
    ),
    (400, {"errors": [{"message": "The account is locked"}]}, "account is locked", "json"),
    (400, b"Bad request: the tenant is unknown", "tenant is unknown", "plain"),
    (
        400,
        {"error": {"message": "Provider returned error", "metadata": {"raw": "the prompt has an odd role"}}},
        "odd role",
        "json",
    ),
    (400, [{"error": {"code": 400, "message": "API key not valid for this API"}}], "API key not valid", "json"),
    (401, {"error": {"message": "Incorrect API key provided: sk-t"}}, "Incorrect API key", "json"),
    (403, {"error": {"message": "Country not supported"}}, "Country not supported", "json"),
    (404, {"error": {"message": "The model 'm' does not exist or you have no access"}}, "does not exist", "json"),
    (402, {"error": {"message": "Insufficient Balance"}}, "Insufficient Balance", "json"),
    (413, b"<html><h1>413 Request Entity Too Large</h1></html>", "Too Large", "html"),
    (500, {"error": {"message": "CUDA out of memory"}}, "CUDA out of memory", "json"),
    (400, {"code": 1301, "msg": "The stream parameter must be true"}, "stream parameter", "json"),
]

WORDS = [
    *(
        Row(
            f"{status}, {words}",
            7,
            on(
                sampling,
                wrong(
                    status,
                    body,
                    {"Content-Type": {"json": "application/json", "plain": "text/plain", "html": "text/html"}[kind]},
                ),
            ),
            code=2,
            says=(words,),
            patience=8,
        )
        for status, body, words, kind in _bodies
    ),
    Row(
        "a 400 for the steps of every problem",
        7,
        on(solving, error(400, _LONG)),
        code=2,
        says=("maximum context length",),
        again="goes on",
    ),
    Row(
        "a port that nobody listens at",
        7,
        settings={"backend": {"base_url": "http://127.0.0.1:9/v1"}},
        code=2,
        says=("(?i)refused|cannot connect",),
        hides=("timed out",),
        patience=16,
    ),
    Row(
        "an unknown host",
        7,
        settings={"backend": {"base_url": "http://nowhere.invalid/v1"}},
        code=2,
        says=("(?i)name or service|unknown host|resolve",),
        hides=("timed out",),
        patience=8,
    ),
    Row(
        "a host name that is none",
        7,
        settings={"backend": {"base_url": "http://bad..host/v1"}},
        code=2,
        says=("bad..host",),
        patience=8,
    ),
    Row(
        "https at a port without it",
        7,
        settings={"backend": {"base_url": "https://127.0.0.1:{port}/v1"}},
        code=2,
        says=("(?i)ssl|tls|https",),
        hides=("timed out",),
        patience=8,
    ),
    Row(
        "a certificate of nobody",
        7,
        certified=True,
        code=2,
        says=("(?i)certificate",),
        hides=("timed out",),
        patience=8,
    ),
    Row(
        "a server that says nothing",
        7,
        on(sampling, slow(10**6)),
        settings={"backend": {"timeout": 5, "attempts": 2}},
        code=2,
        says=("(?i)tim(e|ed) ?out",),
        patience=8,
    ),
    Row(
        "a server that drops every connection",
        7,
        on(sampling, drop),
        code=2,
        says=("(?i)disconnect|closed|dropped",),
        hides=("timed out",),
        patience=8,
    ),
    Row(
        "an address of a web page",
        7,
        wrong(200, b"<!DOCTYPE html><html>Welcome</html>", _HTML),
        code=2,
        says=("(?i)html|base_url",),
        patience=8,
    ),
    *(
        Row(
            f"a {name} without credits",
            7,
            on(lambda request: request.judges or request.path == "/pooling", _BROKE),
            command="judge",
            settings={"judge": judge},
            code=2,
            says=("Insufficient credits",),
            again="goes on" if name != "reward model" else None,
        )
        for name, judge in (
            ("grading judge", {"kind": "pointwise"}),
            ("ranking judge", {"kind": "listwise"}),
            ("panel", _PANEL),
            ("reward model", _REWARD),
        )
    ),
    *(
        Row(
            f"a {name} without credits, in a search",
            7,
            on(lambda request: request.judges or request.path == "/pooling", _BROKE),
            settings={"judge": judge},
            code=2,
            says=("Insufficient credits",),
        )
        for name, judge in (("grading judge", {"kind": "pointwise"}), ("panel", _PANEL), ("reward model", _REWARD))
    ),
    Row(
        "a warning after the cause of a failed start",
        7,
        command="serve",
        settings=managed(_WARNS),
        hasten=1,
        patience=60,
        code=2,
        says=("No available memory",),
        hides=("Error handling is not set",),
        env={"STEPAGENT_API_KEY": "k"},
    ),
    Row(
        "a cause before the last error of a failed start",
        7,
        command="serve",
        settings=managed(_ENDS),
        hasten=1,
        patience=60,
        code=2,
        says=("CUDA out of memory",),
        env={"STEPAGENT_API_KEY": "k"},
    ),
    Row(
        "a managed server and http_proxy",
        6,
        command="serve",
        settings=managed(_HEALTHY),
        hasten=1,
        patience=60,
        code=2,
        check=has_started,
        env={"STEPAGENT_API_KEY": "k", "http_proxy": "http://127.0.0.1:9"},
    ),
    Row(
        "a managed server and a socks proxy",
        6,
        command="serve",
        settings=managed(_HEALTHY),
        hasten=1,
        patience=60,
        code=2,
        check=has_started,
        env={"STEPAGENT_API_KEY": "k", "ALL_PROXY": "socks5://127.0.0.1:9"},
    ),
    Row(
        "a managed server at ::1",
        3,
        command="serve",
        settings=managed(_HEALTHY, "::1"),
        hasten=1,
        patience=60,
        code=2,
        check=has_started,
        env={"STEPAGENT_API_KEY": "k"},
    ),
    Row(
        "a managed server at localhost",
        3,
        command="serve",
        settings=managed(_HEALTHY, "localhost"),
        hasten=1,
        patience=60,
        code=2,
        check=has_started,
        env={"STEPAGENT_API_KEY": "k"},
    ),
]
