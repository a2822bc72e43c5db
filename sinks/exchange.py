"""What libcurl calls back during one request: the dialled address, the headers, the body."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pycurl

from .addresses import Network, parse_address, why_blocked

MOST_HEADER_BYTES = 64 * 1024


@dataclass(slots=True)
class Exchange:
    """What the callbacks of one request gather."""

    allowed: Sequence[Network]
    max_bytes: int
    status: int = 0
    complete: bool = False  # the final status and all headers are in
    headers: dict[str, str] = field(default_factory=dict)
    header_bytes: int = 0
    flooded: bool = False
    body: bytearray = field(default_factory=bytearray)
    dialled: int = 0
    blocked: str | None = None

    def open_socket(self, _purpose: int, address: Any) -> Any:
        """Dial, or refuse to; libcurl goes on with the host's next address."""
        family, kind, protocol, where = address
        why: str | None = "not an internet address"
        if family in (socket.AF_INET, socket.AF_INET6):
            try:
                why = why_blocked(parse_address(where[0]), allowed=self.allowed)
            except (ValueError, TypeError, IndexError):
                why = "not an address"
        if why is not None:
            self.blocked = why
            return pycurl.SOCKET_BAD
        self.dialled += 1
        return socket.socket(family, kind, protocol)

    def on_header(self, line: bytes) -> int | None:
        """Take one header line; 0 stops the request."""
        self.header_bytes += len(line)
        if self.header_bytes > MOST_HEADER_BYTES:
            self.flooded = True
            return 0  # fewer than given: libcurl stops
        text = line.decode("latin-1").strip()
        if text.startswith("HTTP/"):
            code = text.split(" ", 2)[1] if " " in text else ""
            self.status = int(code) if code.isascii() and code.isdigit() else 0
            self.headers = {}
        elif text and not self.complete:
            name, _, value = text.partition(":")
            name, value = name.strip().lower(), value.strip()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        elif not text and self.status >= 200:  # 1xx are interim
            self.complete = True
        return None

    def on_body(self, chunk: bytes) -> int | None:
        """Take a piece of the body; 0 stops the request, which has its status by then."""
        room = self.max_bytes - len(self.body)
        self.body += chunk[:room]
        return 0 if len(chunk) > room else None
