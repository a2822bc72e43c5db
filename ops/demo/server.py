"""Shared code of the demo's two servers: JSON over HTTP/1.1, one thread per connection.

A server reads its configuration as one line of JSON from standard input, not from the command
line, which every user of the machine can read and which would expose secrets. When its standard
input ends, because the parent ended, the server ends too.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MAX_BYTES = 2 * 1024 * 1024


class Handler(BaseHTTPRequestHandler):
    """A request handler for JSON. Subclasses define ``do_GET`` and other methods."""

    protocol_version = "HTTP/1.1"
    # Buffered, so that headers and body share a packet: otherwise the client's delayed
    # acknowledgement slows every response by 40 ms.
    wbufsize = -1
    #: Seconds after which an idle connection is closed.
    timeout = 60

    def read(self) -> bytes:
        """Return the request's body. Call it before sending a response."""
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MAX_BYTES:
            self.close_connection = True
            return b""
        return self.rfile.read(length)

    def answer(self, status: int, body: Any = None) -> None:
        """Send a response with ``body`` as JSON; None sends no body."""
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if data:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: there are thousands of requests."""


def configuration() -> dict[str, Any]:
    """Read the configuration from standard input, and exit when standard input ends."""
    config = json.loads(sys.stdin.readline())
    assert isinstance(config, dict)

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    return config


def serve(descriptor: int, handler: type[Handler]) -> None:
    """Serve requests on a listening socket until stopped.

    The parent opens the socket, so that it knows the port before this process has started.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=descriptor)
    server.daemon_threads = True
    server.serve_forever()
