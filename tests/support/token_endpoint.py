"""An OAuth 2 token endpoint on this machine, for clients under test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from tests.support.http_server import running


class TokenEndpoint:
    """Answers refreshes. With ``rotates``, a refresh token is good for one refresh.

    Attributes:
        forms: the forms of all requests.
        live: refresh tokens that are accepted.
        answers: answers of the next requests instead: (status, headers, body).
        entered: set when a request has arrived.
        may_answer: requests wait for it.
    """

    def __init__(self, url: str, *, rotates: bool, lasts: int) -> None:
        self.url = url
        self.rotates, self.lasts = rotates, lasts
        self.forms: list[dict[str, str]] = []
        self.live = {"R0"}
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.entered = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._lock = threading.Lock()

    def answer(self, form: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        """The answer to a form."""
        with self._lock:
            self.forms.append(form)
            number = len(self.forms)
            if self.answers:
                return self.answers.pop(0)
            if form.get("refresh_token") not in self.live:
                return 400, {}, {"error": "invalid_grant", "error_description": "Bad Request"}
            body = {"access_token": f"A{number}", "expires_in": self.lasts, "token_type": "Bearer"}
            if self.rotates:
                self.live = {f"R{number}"}
                body["refresh_token"] = f"R{number}"
        self.entered.set()
        self.may_answer.wait(60)
        return 200, {}, body


@contextmanager
def token_endpoint(*, rotates: bool = False, lasts: int = 3600) -> Iterator[TokenEndpoint]:
    """Run a token endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            form = {
                name: one[0] for name, one in parse_qs(self.rfile.read(length).decode()).items()
            }
            status, headers, body = endpoint.answer(form)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # the client was killed

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = TokenEndpoint(
        f"http://127.0.0.1:{server.server_port}/token", rotates=rotates, lasts=lasts
    )
    with running(server):
        try:
            yield endpoint
        finally:
            endpoint.may_answer.set()
