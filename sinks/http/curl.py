"""One libcurl handle: its options, the request it sends, the response it receives, and forks.

Where a kept connection breaks before a response, libcurl sends the same request again on a new
connection, although the receiver may have acted on the first. It cannot repeat a body that it
reads from a function and is unable to rewind. So every body is given by a function
(:func:`set_body`), and a connection that the receiver has closed is recognised before anything is
sent on it (:func:`is_stale`): libcurl itself looks for closed connections once a second at most.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from threading import Lock
from typing import Any
from weakref import WeakSet

import pycurl

from .addresses import Network, parse_address, why_blocked

MAX_HEADER_BYTES = 64 * 1024
#: libcurl's number of the option, for which pycurl has no name: a close waits for no name server.
_QUICK_EXIT = 322
_STATUS = re.compile(rb"[0-9]{3}\Z")


def new_curl(options: Mapping[int, Any], *, ca_file: str | None = None) -> Any:
    """A libcurl handle: HTTP/1.1, TLS 1.2 or newer, no redirects, no proxy of the environment.

    Args:
        options: added to these, or in their place.
        ca_file: certificates to trust; default: :func:`system_ca_file`.
    """
    defaults = {
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.FOLLOWLOCATION: 0,
        pycurl.PROXY: "",  # unset would mean the environment's
        pycurl.NOSIGNAL: 1,
        pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,
        pycurl.SSL_VERIFYPEER: 1,
        pycurl.SSL_VERIFYHOST: 2,
    }
    if ca_file := ca_file or system_ca_file():
        defaults[pycurl.CAINFO] = ca_file
    curl = pycurl.Curl()
    for option, value in {**defaults, **options}.items():
        curl.setopt(option, value)
    with suppress(pycurl.error):  # not known before libcurl 7.87
        curl.setopt(_QUICK_EXIT, 1)
    leave_to_parent(curl)
    return curl


def system_ca_file() -> str | None:
    """Return the CA file of the system (companies add their own), otherwise that of certifi."""
    system = ssl.get_default_verify_paths().cafile
    if system:
        return system
    import certifi

    return certifi.where()


def set_headers(curl: Any, headers: Mapping[str, str]) -> None:
    """Set the request headers; libcurl adds none of its own but Host and Content-Length."""
    lines = ["Expect:", "Accept-Encoding:"]  # a name alone: libcurl leaves the header out
    for name, value in headers.items():
        # "name:" would leave it out; a semicolon is how libcurl writes an empty value.
        lines.append(f"{name}: {value}" if value and not value.isspace() else f"{name};")
    curl.setopt(pycurl.HTTPHEADER, [line.encode("latin-1") for line in lines])


def set_body(curl: Any, body: bytes) -> None:
    """Set the request body, which libcurl can send once."""
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.POSTFIELDSIZE, len(body))
    curl.setopt(pycurl.READFUNCTION, BytesIO(body).read)


def milliseconds(seconds: float) -> int:
    """A time-out as libcurl takes it; at least 1, since 0 would mean none."""
    return max(1, int(seconds * 1000))


def is_stale(sockets: Iterable[int]) -> bool:
    """Whether one of some idle sockets was closed by its other side.

    A socket that has received data nobody asked for counts as closed: the data would be taken for
    the next response. A socket that this process has closed does not count.
    """
    poll = select.poll()
    for number in sockets:
        poll.register(number, select.POLLIN)
    return any(event & ~select.POLLNVAL for _, event in poll.poll(0))


class Callbacks:
    """What libcurl calls during one request, and what these calls collect.

    libcurl calls from the thread that drives it, several times a request; all that can wait until
    the request is over is not done here.

    Attributes:
        status: of the last status line; 0 while there is none that can be read.
        is_complete: the final status and all headers have arrived.
        is_flooded: more headers arrived than are read.
        body: its first bytes.
        dialled: number of addresses that were dialled.
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
        """Names in lower case; a repeated header is joined by ``, ``."""
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
        if self._header_bytes > MAX_HEADER_BYTES:
            self.is_flooded = True
            return 0  # fewer than given: libcurl stops
        if line.startswith(b"HTTP/"):
            code = line.split(None, 2)[1:2]
            # Three digits, or it could be a number that the request held.
            self.status = int(code[0]) if code and _STATUS.match(code[0]) else 0
            self._lines.clear()
        elif not line.strip():
            self.is_complete = self.is_complete or self.status >= 200  # 1xx are interim
        elif not self.is_complete:  # trailers after the body are not headers
            self._lines.append(line)
        return None

    def on_body(self, chunk: bytes) -> int | None:
        """Take a piece of the body; 0 stops the request, which has its status by then."""
        room = self._max_bytes - len(self.body)
        self.body += chunk[:room]
        return 0 if len(chunk) > room else None


@dataclass(eq=False, slots=True)
class Handle:
    """A libcurl handle whose options are set once, and what its callbacks collect."""

    curl: Any
    callbacks: Callbacks


# Freed in a forked child, a handle would send TLS goodbyes on connections that are still the
# parent's: when a thread's own are cleared, since a child has none of its parent's other threads,
# and when the child ends. So a child never frees what it inherited.
_lock = Lock()
_open: WeakSet[Any] = WeakSet()
_inherited: list[Any] = []


def leave_to_parent(handle: Any) -> None:
    """If this process forks, its child leaves this easy or multi handle as it is."""
    with _lock:
        _open.add(handle)


def _before_fork() -> None:
    _lock.acquire()
    _inherited.extend(_open)


def _in_parent() -> None:
    _inherited.clear()
    _lock.release()


def _in_child() -> None:
    for handle in _inherited:
        # A list would hold it until the interpreter is torn down, and not beyond.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
    _inherited.clear()
    _open.clear()
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
