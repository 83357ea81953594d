"""A stand-in for the Hugging Face Hub on 127.0.0.1: the endpoints that huggingface_hub uses to make a repository and to
upload files, with LFS over HTTP. It keeps every repository's files in memory, and refuses on order."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = 3000
"""Files of more bytes go by LFS."""


@dataclass
class HubRepository:
    """A repository: its files, and the messages of its commits."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class HubStandIn:
    """The Hub: a token, its role, the repositories by "models/org/name", the objects sent by LFS. `refusals`
    are the statuses of replies to requests that a pattern fits. After `let_through` more objects, an object waits while
    `gate` is closed."""

    token: str = "hf_right"
    role: str = "write"
    repositories: dict[str, HubRepository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)
    let_through: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def answer(self, method: str, path: str, body: bytes, url: str) -> tuple[int, Any]:
        """Return status and content of the reply to a request."""
        self.requests.append(f"{method} {path}")
        for pattern, status in self.refusals.items():
            if re.search(pattern, f"{method} {path}"):
                return status, {"error": f"no, with {status}"}
        if path == "/api/whoami-v2":
            account = {"type": "access_token", "accessToken": {"role": self.role}}
            return 200, {"type": "user", "name": "me", "orgs": [{"name": "org", "roleInOrg": "write"}], "auth": account}
        if path == "/api/validate-yaml":
            return 200, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body), url)
        if match := re.fullmatch(r"/objects/(\w+)", path):
            return self._put(match[1], body)
        if match := re.fullmatch(r"/(datasets/)?(\w+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return 200, {"objects": [self._action(wish, url) for wish in json.loads(body)["objects"]]}
        if match := re.fullmatch(r"/(datasets/)?(\w+/[\w.-]+)/resolve/main/(.+)", path):
            repository = self.repositories[f"{match[1] or 'models/'}{match[2]}"]
            return 200, repository.files[match[3]]
        if match := re.fullmatch(r"/api/((?:models|datasets)/\w+/[\w.-]+)(?:/(preupload|commit|revision)/main)?", path):
            repository = self.repositories.get(match[1])
            if repository is None:
                return 404, {"error": "Repository not found"}
            if match[2] == "preupload":
                return 200, {"files": [_mode(repository, file) for file in json.loads(body)["files"]]}
            if match[2] == "commit":
                return self._commit(repository, [json.loads(line) for line in body.splitlines()], f"{url}/{match[1]}")
            files = [{"rfilename": name} for name in (".gitattributes", *repository.files)]
            name = match[1].partition("/")[2]
            return 200, {"id": name, "private": repository.private, "sha": "0" * 40, "siblings": files, "tags": []}
        return 404, {"error": f"no such page: {path}"}

    def _create(self, wish: dict[str, Any], url: str) -> tuple[int, Any]:
        name = f"{wish.get('type') or 'model'}s/{wish['organization']}/{wish['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this repo"}
        self.repositories[name] = HubRepository(private=wish.get("private", wish.get("visibility") == "private"))
        return 200, {"url": f"{url}/{name.removeprefix('models/')}"}

    def _put(self, oid: str, body: bytes) -> tuple[int, Any]:
        if self.let_through == 0 and not self.gate.is_set():
            self.waiting.set()
            self.gate.wait(60)
            return 500, {}
        self.let_through -= not self.gate.is_set()
        assert sha256(body).hexdigest() == oid
        self.objects[oid] = body
        self.uploads.append(oid)
        return 200, {}

    def _action(self, wish: dict[str, Any], url: str) -> dict[str, Any]:
        upload = {"actions": {"upload": {"href": f"{url}/objects/{wish['oid']}"}}}
        return {"oid": wish["oid"], "size": wish["size"], **({} if wish["oid"] in self.objects else upload)}

    def _commit(self, repository: HubRepository, lines: list[dict[str, Any]], url: str) -> tuple[int, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            else:
                repository.files[value["path"]] = self.objects[value["oid"]]
        return 200, {"success": True, "commitOid": "1" * 40, "commitUrl": f"{url}/commit/{'1' * 40}"}


def _mode(repository: HubRepository, file: dict[str, Any]) -> dict[str, Any]:
    content = repository.files.get(file["path"])
    large = file["size"] > LARGE
    oid = None
    if content is not None:
        oid = sha256(content).hexdigest() if large else sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


@contextmanager
def serve_hub(hub: HubStandIn) -> Iterator[str]:
    """Run the stand-in in a thread as long as the block runs, and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            if self.headers.get("Authorization") != f"Bearer {hub.token}" and not path.startswith("/objects/"):
                status, content = 401, {"error": "Invalid credentials in Authorization header"}
            else:
                status, content = hub.answer(self.command, path, body, f"http://127.0.0.1:{server.server_port}")
            wire = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(wire)))
            self.send_header("Content-Type", "application/json")
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(wire)

        do_GET = do_POST = do_PUT = do_HEAD = reply

        def log_message(self, *words: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *words: object) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        hub.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
