"""A loopback OpenAI-compatible server with seeded replies, byte tokens, and faults on order."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = 256
Fault = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, retry_after: str | None = None, message: str = "no") -> Fault:
    def send(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"error": {"message": message}}).encode()
        handler.send_response(code)
        if retry_after is not None:
            handler.send_header("Retry-After", retry_after)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return send


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def half_json(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "10")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')


def empty_choices(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "14")
    handler.end_headers()
    handler.wfile.write(b'{"choices":[]}')


def wrong_n(handler: BaseHTTPRequestHandler) -> None:
    """Marks a reply of one choice too many."""
    raise NotImplementedError


def stall(seconds: float) -> Fault:
    return lambda handler: (time.sleep(seconds), drop(handler))[1]


class Stub:
    """`say(context, seed)` gives the reply to its end. `faults` are served first, in order. It tokenises as
    vLLM does or not; continues a half-written turn or ignores the wish; `refuses` parameters of these names;
    allows `per_second` requests. `served` are the requests it answered, a probe's aside."""

    def __init__(
        self,
        say: Callable[[str, int], str],
        tokenises: bool = True,
        continues: bool = False,
        refuses: Sequence[str] = (),
    ) -> None:
        self.say = say
        self.tokenises = tokenises
        self.continues = continues
        self.refuses = set(refuses)
        self.per_second: int | None = None
        self.moments: list[float] = []
        self.refused = 0
        self.headers: dict[str, str] = {}
        self.seconds = 0.0
        self.faults: list[Fault] = []
        self.rate = 0.0
        self.kinds: list[Fault] = []
        self.rng = random.Random(0)
        self.served: list[dict[str, Any]] = []
        self.window = 4096
        self.finish: str | None = None
        self.lock = threading.Lock()

    def fault(self) -> Fault | None:
        with self.lock:
            if self.faults:
                return self.faults.pop(0)
            if self.per_second is not None:
                now = time.monotonic()
                self.moments = [moment for moment in self.moments if now - moment < 1]
                if len(self.moments) >= self.per_second:
                    self.refused += 1
                    return status(429)
                self.moments.append(now)
            return self.rng.choice(self.kinds) if self.rng.random() < self.rate else None

    def choice(self, index: int, context: str, body: dict[str, Any]) -> dict[str, Any]:
        text, reason, stopped = self.say(context, int(body.get("seed") or 0) + index), "stop", None
        for stop in body.get("stop") or ():
            if stop in text:
                text, stopped = text[: text.index(stop) + len(stop)], stop
        ids = list(text.encode()) + ([] if stopped else [END])
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        if len(ids) > limit:
            ids, reason, stopped = ids[:limit], "length", None
            text = bytes(ids).decode()
        return {
            "index": index,
            "text": text,
            "message": {"role": "assistant", "content": text, "reasoning_content": "hm", "reasoning": "hm"},
            "finish_reason": self.finish or reason,
            **({"stop_reason": stopped} if self.tokenises or self.continues else {}),
            "token_ids": ids,
            "logprobs": {
                "token_logprobs": [-0.5] * len(ids),
                "tokens": [chr(i) for i in ids],
                "content": [{"token": chr(i), "logprob": -0.5} for i in ids],
            },
        }

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if path == "/tokenize" and self.tokenises:
            text = body.get("prompt") or "".join(f"<{m['role']}>{m['content']}" for m in body["messages"])
            text += "<assistant>" if "messages" in body else ""
            return {"tokens": list(text.encode()), "max_model_len": self.window, "count": len(text)}
        if path == "/detokenize" and self.tokenises:
            return {"prompt": bytes(token for token in body["tokens"] if token < END).decode()}
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": "m", "object": "model"}]}
        if path == "/v1/completions":
            context = bytes(token for token in body["prompt"] if token < END).decode()
        elif path == "/v1/chat/completions":
            context = "".join(f"<{m['role']}>{m['content']}" for m in body["messages"])
            if not (self.continues and body.get("continue_final_message")):
                context += "<assistant>"
        else:
            return None
        choices = [self.choice(index, context, body) for index in range(body.get("n") or 1)]
        usage = {"prompt_tokens": len(context), "completion_tokens": 1, "total_tokens": 1}
        made = {"id": "x", "object": "o", "created": 0, "model": "m", "choices": choices, "usage": usage}
        return {**made, "prompt_token_ids": list(context.encode())} if self.tokenises else made


def is_probe(body: dict[str, Any]) -> bool:
    """Whether a request only asks what the server can do."""
    question = "Is 7 < 11?"
    if "messages" in body:
        return bool(body["messages"][0]["content"] == question)
    return bytes(token for token in body["prompt"] if token < END).decode().startswith(f"<user>{question}")


@contextmanager
def serve(stub: Stub) -> Iterator[str]:
    """The stub's base URL, as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None: ...

        def do_GET(self) -> None:
            self.answer({})

        def do_POST(self) -> None:
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def answer(self, body: dict[str, Any]) -> None:
            completes = self.path.endswith("completions")
            fault = stub.fault() if completes else None
            if fault and fault is not wrong_n:
                fault(self)
                return
            if refused := stub.refuses & body.keys():
                status(400, message=f"unsupported: {refused}")(self)
                return
            made = stub.reply(self.path, body)
            if made and fault:
                made["choices"].append(made["choices"][0])
            if made is None:
                status(404)(self)
                return
            if completes and not is_probe(body):
                time.sleep(stub.seconds)
                with stub.lock:
                    stub.served.append(body)
            sent = json.dumps(made).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            for name, value in stub.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # a client that was killed
                self.wfile.write(sent)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
