"""A server with the batch endpoint of OpenAI's protocol, on 127.0.0.1. A batch is done once it was looked at twice."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOKS = 2


@dataclass
class BatchServer:
    """The server's files, its batches, and its replies: `respond` gives a request's status and body. `prompts` are the
    chats that were asked at once, `lines` those of every batch; `created` is set once there is a batch."""

    respond: Callable[[dict[str, Any]], tuple[int, Any]]
    has_batches: bool = True
    outcome: str = "completed"
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)
    lines: list[list[dict[str, Any]]] = field(default_factory=list)
    created: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return the status and the body of a reply; bytes are sent as they are."""
        if path.startswith("/v1/chat/completions"):
            request = json.loads(body)
            self.prompts.append(request["messages"][-1]["content"])
            return self.respond(request)
        if not self.has_batches:
            return 404, {"error": {"message": "Not Found"}}
        if path.startswith("/v1/files") and method == "POST":
            (name,) = self._store(
                re.split(rb"\r\n--[^\n]*", body.split(b"filename=", 1)[1].split(b"\r\n\r\n", 1)[1])[0]
            )
            return 200, {"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "f", "purpose": "batch"}
        if path.startswith("/v1/files/"):
            return 200, self.files[path.split("/")[3]]
        if path.startswith("/v1/batches") and method == "POST":
            return 200, self._create(json.loads(body))
        if path.startswith("/v1/batches/"):
            return 200, self._look(path.split("/")[3])
        if path.startswith("/v1/batches"):
            return 200, {"object": "list", "data": list(self.batches.values()), "has_more": False}
        return 404, {"error": {"message": "Not Found"}}

    def _store(self, content: bytes) -> list[str]:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return [name]

    def _create(self, request: dict[str, Any]) -> dict[str, Any]:
        name = f"batch-{len(self.batches)}"
        lines = [json.loads(line) for line in self.files[request["input_file_id"]].splitlines()]
        self.lines.append(lines)
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "created_at": 0,
            "status": "in_progress",
            "looks": 0,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            **request,
        }
        self.created.set()
        return self.batches[name]

    def _look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        batch["looks"] += 1
        if batch["looks"] < LOOKS or batch["status"] != "in_progress":
            return batch
        batch["status"] = self.outcome
        if self.outcome == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": "invalid", "message": "the file is no JSONL"}]}
            return batch
        outputs: list[bytes] = []
        refusals: list[bytes] = []
        for line in [json.loads(text) for text in self.files[batch["input_file_id"]].splitlines()]:
            status, content = self.respond(line["body"])
            if status == 0:  # the server lost it
                continue
            row = {"id": "r", "custom_id": line["custom_id"], "response": {"status_code": status, "body": content}}
            (outputs if status == 200 else refusals).append(json.dumps(row | {"error": None}).encode())
        batch["output_file_id"], batch["error_file_id"] = (
            self._store(b"\n".join(rows))[0] if rows else None for rows in (outputs, refusals)
        )
        return batch


@contextmanager
def serve_batches(server: BatchServer) -> Iterator[str]:
    """Run the server in a thread, and yield its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = server.answer(self.command, self.path, body)
            wire = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(wire)))
            self.end_headers()
            self.wfile.write(wire)

        do_GET = do_POST = _reply

        def log_message(self, format: str, *arguments: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/v1"
    finally:
        http.shutdown()
        http.server_close()
