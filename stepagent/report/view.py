"""`stepagent view`: the report of a run on 127.0.0.1 while the run goes on, with every tree. It only reads.

The address holds a random token, so that other users of the machine and pages of other sites cannot guess it; requests
under another host name, which a page of another site could make, are refused.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from pathlib import Path
from typing import Any

from stepagent.console import console, output
from stepagent.errors import ConfigError
from stepagent.report.live_index import LiveIndex
from stepagent.report.page import render_live

_PAUSE = 2.0  # seconds between two looks at the files
_MOST = 500  # rows of one reply
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class LiveReport:
    """The newest page of a run, and its trees. A thread follows the files until `close`."""

    def __init__(self, path: Path) -> None:
        self.index = LiveIndex(path)
        self.index.refresh()
        self._path = path
        self.page = render_live(path)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._end.wait(_PAUSE):
            try:
                if self.index.refresh():
                    self.page = render_live(self._path)
            except (OSError, ValueError) as error:  # a file that changes just now: look again
                console.print(f"view: {error}", style="dim", markup=False, soft_wrap=True)

    def close(self) -> None:
        """End the thread and drop the index."""
        self._end.set()
        self._thread.join()
        self.index.close()


def make_app(report: LiveReport, token: str) -> Any:
    """Return the web application: a page, its list and its trees, all below /`token`/. Raises ConfigError if Starlette
    is not installed."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import HTMLResponse, Response
        from starlette.routing import Route
    except ImportError:
        raise ConfigError("view: Starlette and uvicorn are not installed; pip install 'stepagent[view]'") from None

    def show_page(request: Any) -> Any:
        return HTMLResponse(report.page, headers=_HEADERS)

    def list_trees(request: Any) -> Any:
        parameters = request.query_params
        first, size = (_number(parameters.get(key)) or 0 for key in ("first", "size"))
        page = report.index.page(
            parameters.get("q", ""),
            _number(parameters.get("file")),
            parameters.getlist("filter"),
            order=parameters.get("order", ""),
            first=first,
            size=min(size, _MOST),
        )
        return _json(page)

    def show_trees(request: Any) -> Any:
        numbers = [number for text in request.query_params.getlist("number") if (number := _number(text)) is not None]
        trees = report.index.trees(numbers[:_MOST])
        return Response(status_code=404, headers=_HEADERS) if trees is None else _json(trees)

    def _json(data: Any) -> Any:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False)
        return Response(text, media_type="application/json", headers=_HEADERS)

    routes = [
        Route(f"/{token}/{path}", handler, methods=["GET"])
        for path, handler in (("", show_page), ("list", list_trees), ("trees", show_trees))
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 15 else None


def view(path: Path, port: int) -> None:
    """Show the report of the run at `path` on 127.0.0.1 until Ctrl-C. `port` 0 takes a free one. Raises ConfigError or
    DataError."""
    try:
        import uvicorn
    except ImportError:
        raise ConfigError("view: Starlette and uvicorn are not installed; pip install 'stepagent[view]'") from None
    token = secrets.token_urlsafe(16)
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"--port {port}: not free ({error.strerror}); leave it out") from None
        listener.listen()  # who opens the address at once waits for the server instead of being refused
        console.print(f"reading {path}", style="dim", highlight=False, markup=False, soft_wrap=True)
        report = LiveReport(path)
        try:
            server = uvicorn.Server(uvicorn.Config(make_app(report, token), log_level="warning"))
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/"
            output.print(f"view: {address} (Ctrl-C ends it)", highlight=False, markup=False, soft_wrap=True)
            server.run(sockets=[listener])
        finally:
            report.close()
