"""An HTTP reverse proxy that can answer instead of its server."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.http_server import running

_OF_A_CONNECTION = {"connection", "transfer-encoding", "host"}


@dataclass(frozen=True)
class CannedAnswer:
    """Bytes sent instead of the server's answer. If is_forwarded, the server gets the request."""

    data: bytes
    is_forwarded: bool = False


class HttpProxy:
    """Forwards requests to 127.0.0.1:``port``, unless a test has set another answer."""

    def __init__(self, port: int) -> None:
        self.site_port = port
        self.port = 0
        #: Method and path of each request.
        self.requests: list[str] = []
        #: TLS context for new connections.
        self.tls: ssl.SSLContext | None = None
        self._once: list[CannedAnswer] = []
        self._always: CannedAnswer | None = None

    @property
    def url(self) -> str:
        host = "http://127.0.0.1" if self.tls is None else "https://localhost"
        return f"{host}:{self.port}"

    def answer_once(self, data: bytes, *, is_forwarded: bool = False) -> None:
        """Answer the next request with ``data`` and close its connection."""
        self._once.append(CannedAnswer(data, is_forwarded))

    def answer_all(self, data: bytes | None) -> None:
        """Answer every request with ``data`` from now on; None forwards them again."""
        self._always = None if data is None else CannedAnswer(data)

    def take(self, request: str) -> CannedAnswer | None:
        self.requests.append(request)
        return self._once.pop(0) if self._once else self._always


@contextmanager
def http_proxy(port: int) -> Iterator[HttpProxy]:
    """A proxy for the server on a port, until the end of the block."""
    proxy = HttpProxy(port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            if proxy.tls is not None:
                self.request = proxy.tls.wrap_socket(self.request, server_side=True)
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            canned = proxy.take(f"{self.command} {self.path}")
            if canned is None or canned.is_forwarded:
                status, data = self._ask(body)
            if canned is not None:
                self.close_connection = True
                self.wfile.write(canned.data)
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_PATCH = do_POST

        def _ask(self, body: bytes) -> tuple[int, bytes]:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_A_CONNECTION}
            site = http.client.HTTPConnection("127.0.0.1", proxy.site_port, timeout=30)
            with contextlib.closing(site):
                site.request(self.command, self.path, body, headers)
                answer = site.getresponse()
                return answer.status, answer.read()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """Log nothing: some tests make clients refuse a certificate or a large body."""

    with running(Server(("127.0.0.1", 0), Handler)) as proxy.port:
        yield proxy
