"""A local HTTP server that records requests and answers as the test demands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event
from time import time
from typing import Any

import orjson

from tests.support.http_server import running


@dataclass(frozen=True)
class Request:
    """A request. Header names are in lower case; repeated headers are joined with ", "."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """A response, sent after ``after`` seconds."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0


class Receiver:
    """Answers the requests to each path from a list, then with a default answer."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self._scripts: dict[str, list[Answer]] = {}
        self._standing: dict[str, Answer] = {}
        self.is_closing = Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self, path: str, *script: Answer, then: Answer | None = None) -> None:
        """Answer ``path`` with each answer of ``script`` once, then always with ``then``."""
        self._scripts[path] = list(script)
        if then is not None:
            self._standing[path] = then

    def of(self, path: str) -> list[Request]:
        """The requests to one path so far."""
        return [request for request in self.requests if request.path == path]

    def take(self, request: Request) -> Answer:
        self.requests.append(request)
        script = self._scripts.get(request.path)
        return script.pop(0) if script else self._standing.get(request.path, Answer())


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that runs until the end of the block."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            headers = {
                name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers
            }
            body = self.rfile.read(length)
            answer = receiver.take(Request(self.command, self.path, headers, body, time()))
            receiver.is_closing.wait(answer.after)
            data = b"" if answer.body is None else orjson.dumps(answer.body)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_PUT = do_GET = do_PATCH = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # With the default of five, some of ten simultaneous connections would retry after a second.
        request_queue_size = 128

    with running(Server(("127.0.0.1", 0), Handler)) as receiver.port:
        try:
            yield receiver
        finally:
            receiver.is_closing.set()
