"""What libcurl calls back during one request: the dialled address, the headers, the body.

libcurl calls from the thread that drives it, several times a request; whatever can wait until
the request is over is not done here.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Any

import pycurl

from .addresses import Network, parse_address, why_blocked

MOST_HEADER_BYTES = 64 * 1024
_STATUS = re.compile(rb"[0-9]{3}\Z")


class Exchange:
    """What the callbacks of one request gather; used again for the next.

    Attributes:
        status: of the last status line; 0 while there is none that can be read.
        is_complete: the final status and all headers are in.
        is_flooded: more headers came than are read.
        body: its first bytes.
        dialled: how many addresses were.
        blocked: why the last address that was not dialled was not.
    """

    def __init__(self, allowed: Sequence[Network], max_bytes: int) -> None:
        self._allowed = allowed
        self._max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget the last request."""
        self.status = 0
        self.is_complete = False
        self.is_flooded = False
        self.body = bytearray()
        self.dialled = 0
        self.blocked: str | None = None
        self._lines: list[bytes] = []
        self._header_bytes = 0

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case; a repeated one joined by ``, ``."""
        headers: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return headers

    def open_socket(self, _purpose: int, address: Any) -> Any:
        """Dial, or refuse to; libcurl goes on with the host's next address."""
        family, kind, protocol, where = address
        why: str | None = "not an internet address"
        if family in (socket.AF_INET, socket.AF_INET6):
            try:
                why = why_blocked(parse_address(where[0]), allowed=self._allowed)
            except (ValueError, TypeError, IndexError):
                why = "not an address"
        if why is not None:
            self.blocked = why
            return pycurl.SOCKET_BAD
        self.dialled += 1
        return socket.socket(family, kind, protocol)

    def on_header(self, line: bytes) -> int | None:
        """Take one header line; 0 stops the request."""
        self._header_bytes += len(line)
        if self._header_bytes > MOST_HEADER_BYTES:
            self.is_flooded = True
            return 0  # fewer than given: libcurl stops
        if line.startswith(b"HTTP/"):
            code = line.split(None, 2)[1:2]
            # Three digits, or it could be a number that the request held.
            self.status = int(code[0]) if code and _STATUS.match(code[0]) else 0
            self._lines.clear()
        elif not line.strip():
            self.is_complete = self.is_complete or self.status >= 200  # 1xx are interim
        elif not self.is_complete:  # what comes behind the body is no header
            self._lines.append(line)
        return None

    def on_body(self, chunk: bytes) -> int | None:
        """Take a piece of the body; 0 stops the request, which has its status by then."""
        room = self._max_bytes - len(self.body)
        self.body += chunk[:room]
        return 0 if len(chunk) > room else None
