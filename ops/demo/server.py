"""What the demo's two servers share: HTTP/1.1 with keep-alive, JSON, a thread a connection.

Each is told what it needs in one line of JSON on its standard input, secrets
included: a command line can be read by every user of the machine. When the input
ends, because its parent did, the server does too.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MOST_BYTES = 2 * 1024 * 1024


class Handler(BaseHTTPRequestHandler):
    """A request handler that speaks JSON; a subclass has ``do_GET`` and the like."""

    protocol_version = "HTTP/1.1"
    # Buffered, so that headers and body leave in one packet: apart, the client's
    # delayed acknowledgement would hold up every answer by 40 ms.
    wbufsize = -1
    #: An idle connection is let go after so many seconds.
    timeout = 60

    def read(self) -> bytes:
        """The request's body, to be read before any answer is sent."""
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MOST_BYTES:
            self.close_connection = True
            return b""
        return self.rfile.read(length)

    def answer(self, status: int, body: Any = None) -> None:
        """Send ``body`` as JSON; nothing at all where it is None."""
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if data:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line a request would be thousands."""


def configuration() -> dict[str, Any]:
    """The line of JSON on standard input; from then on, the end of the input ends this process."""
    told = json.loads(sys.stdin.readline())
    assert isinstance(told, dict)

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    return told


def serve(descriptor: int, handler: type[Handler]) -> None:
    """Answer requests on a listening socket that the parent opened, until stopped.

    The parent opens it so that it knows the port, and that nobody else has it,
    before this process has started.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=descriptor)
    server.daemon_threads = True
    server.serve_forever()
