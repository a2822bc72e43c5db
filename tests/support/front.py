"""A server in front of another one, like an operator's proxy, that can answer in its place."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_OF_A_CONNECTION = {"connection", "transfer-encoding", "host"}


@dataclass(frozen=True)
class Instead:
    """Bytes in the place of the answer; whether the request reaches the other server at all."""

    data: bytes
    is_passed_on: bool = False


class Front:
    """Passes requests on to 127.0.0.1:``port``, unless it is told to answer otherwise."""

    def __init__(self, port: int) -> None:
        self.site_port = port
        self.port = 0
        #: The method and path of each request.
        self.requests: list[str] = []
        #: TLS of the connections that come from now on.
        self.tls: ssl.SSLContext | None = None
        self._once: list[Instead] = []
        self._always: Instead | None = None

    @property
    def url(self) -> str:
        host = "http://127.0.0.1" if self.tls is None else "https://localhost"
        return f"{host}:{self.port}"

    def says_once(self, data: bytes, *, is_passed_on: bool = False) -> None:
        """Answer the next request with ``data`` and close its connection."""
        self._once.append(Instead(data, is_passed_on))

    def says(self, data: bytes | None) -> None:
        """Answer every request with ``data`` from now on; None: pass them on again."""
        self._always = None if data is None else Instead(data)

    def take(self, request: str) -> Instead | None:
        self.requests.append(request)
        return self._once.pop(0) if self._once else self._always


@contextmanager
def front_of(port: int) -> Iterator[Front]:
    """A front of the server on that port, for as long as the block lasts."""
    front = Front(port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            if front.tls is not None:
                self.request = front.tls.wrap_socket(self.request, server_side=True)
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            instead = front.take(f"{self.command} {self.path}")
            if instead is None or instead.is_passed_on:
                status, data = self._ask(body)
            if instead is not None:
                self.close_connection = True
                self.wfile.write(instead.data)
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_PATCH = do_POST

        def _ask(self, body: bytes) -> tuple[int, bytes]:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_A_CONNECTION}
            site = http.client.HTTPConnection("127.0.0.1", front.site_port, timeout=30)
            with contextlib.closing(site):
                site.request(self.command, self.path, body, headers)
                answer = site.getresponse()
                return answer.status, answer.read()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """Quiet: clients that trust no expired certificate, or read no 10 MB."""

    server = Server(("127.0.0.1", 0), Handler)
    front.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
