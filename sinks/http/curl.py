"""libcurl handles: options, requests, responses, and handles in a forked process.

If a kept connection breaks before a response, libcurl sends the request again on a new connection,
although the receiver may have acted on the first request. Two measures prevent that:

- Every body is read from a function (:func:`set_body`): libcurl cannot rewind it, so it cannot
  send it twice.
- Before a request, :func:`is_stale` and :class:`.transfers.KeptConnections` find connections that
  the receiver has closed. libcurl itself checks once a second at most.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from threading import Lock
from typing import Any
from weakref import WeakSet

import pycurl

from .addresses import Network, parse_address, why_blocked

MAX_HEADER_BYTES = 64 * 1024
#: CURLOPT_QUICK_EXIT, which pycurl lacks: closing a handle does not wait for DNS.
_QUICK_EXIT = 322
_STATUS = re.compile(rb"[0-9]{3}\Z")


def new_curl(options: Mapping[int, Any], *, ca_file: str | None = None) -> Any:
    """Make an easy handle: HTTP/1.1, TLS 1.2 or newer, no redirects, no proxy.

    Args:
        options: further options, which override these.
        ca_file: file of trusted certificates; default: :func:`system_ca_file`.
    """
    defaults = {
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.FOLLOWLOCATION: 0,
        pycurl.PROXY: "",  # otherwise libcurl uses the proxy of the environment
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
    with suppress(pycurl.error):  # unknown before libcurl 7.87
        curl.setopt(_QUICK_EXIT, 1)
    never_free_in_child(curl)
    return curl


def system_ca_file() -> str | None:
    """Return the CA file of the system (companies add their own), otherwise certifi's."""
    system = ssl.get_default_verify_paths().cafile
    if system:
        return system
    import certifi

    return certifi.where()


def set_headers(curl: Any, headers: Mapping[str, str]) -> None:
    """Set the request headers; libcurl adds only Host and Content-Length."""
    lines = ["Expect:", "Accept-Encoding:"]  # no value: libcurl omits the header
    for name, value in headers.items():
        # "name;" sends the header with an empty value; "name:" would omit it.
        lines.append(f"{name}: {value}" if value and not value.isspace() else f"{name};")
    curl.setopt(pycurl.HTTPHEADER, [line.encode("latin-1") for line in lines])


def set_body(curl: Any, body: bytes) -> None:
    """Set the request body so that libcurl can send it only once."""
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.POSTFIELDSIZE, len(body))
    curl.setopt(pycurl.READFUNCTION, BytesIO(body).read)


def set_http2(curl: Any, *, is_on: bool) -> None:
    """Use HTTP/2 for the next request, on a connection that no other request uses; or HTTP/1.1.

    libcurl keeps an HTTP/2 connection after a time-out, and closes only the stream: on a connection
    that is dead, all further requests would time out too. Requests that share a connection fail
    together. So an HTTP/2 connection is closed after its request.
    """
    version = pycurl.CURL_HTTP_VERSION_2TLS if is_on else pycurl.CURL_HTTP_VERSION_1_1
    curl.setopt(pycurl.HTTP_VERSION, version)
    curl.setopt(pycurl.FORBID_REUSE, int(is_on))


def milliseconds(seconds: float) -> int:
    """Convert a time-out for libcurl: at least 1, because 0 means no time-out."""
    return max(1, int(seconds * 1000))


def is_stale(descriptor: int) -> bool:
    """Whether the peer has closed an idle socket.

    A socket with unread data counts as closed, because libcurl would take the data for the next
    response. A socket that this process has closed does not count.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(event & ~select.POLLNVAL for _, event in poll.poll(0))


class Callbacks:
    """The callbacks of one handle, which collect the response of one request at a time.

    libcurl calls them several times per request and blocks the event loop meanwhile, so they do
    only what cannot wait until the request has ended.

    Attributes:
        status: HTTP status of the last status line; 0 if there is no valid status line.
        is_complete: whether the final status and all headers have arrived.
        has_too_many_headers: whether the headers are longer than :data:`MAX_HEADER_BYTES`.
        body: the first bytes of the body.
        sockets: number of sockets opened.
        blocked: kind of the last blocked address; None if no address was blocked.
    """

    def __init__(self, allowed: Sequence[Network], max_bytes: int) -> None:
        self._allowed = allowed
        self._max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget the last request."""
        self.status = 0
        self.is_complete = False
        self.has_too_many_headers = False
        self.body = bytearray()
        self.sockets = 0
        self.blocked: str | None = None
        self._lines: list[bytes] = []
        self._header_bytes = 0

    @property
    def headers(self) -> dict[str, str]:
        """Response headers by lower-case name; values of repeated headers joined by ``, ``."""
        headers: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return headers

    def open_socket(self, _purpose: int, address: Any) -> Any:
        """Open a socket unless the address is blocked; then libcurl tries the next address."""
        family, kind, protocol, sockaddr = address
        blocked: str | None = "not an internet address"
        if family in (socket.AF_INET, socket.AF_INET6):
            try:
                blocked = why_blocked(parse_address(sockaddr[0]), allowed=self._allowed)
            except (ValueError, TypeError, IndexError):
                blocked = "not an address"
        if blocked is not None:
            self.blocked = blocked
            return pycurl.SOCKET_BAD
        self.sockets += 1
        return socket.socket(family, kind, protocol)

    def on_header(self, line: bytes) -> int | None:
        """Collect one header line; returns 0 to stop the request."""
        self._header_bytes += len(line)
        if self._header_bytes > MAX_HEADER_BYTES:
            self.has_too_many_headers = True
            return 0  # fewer bytes than given: libcurl stops
        if line.startswith(b"HTTP/"):
            code = line.split(None, 2)[1:2]
            # Exactly three digits: a longer number could be an echo of the request.
            self.status = int(code[0]) if code and _STATUS.match(code[0]) else 0
            self._lines.clear()
        elif not line.strip():
            self.is_complete = self.is_complete or self.status >= 200  # 1xx are interim
        elif not self.is_complete:  # trailers after the body are not headers
            self._lines.append(line)
        return None

    def on_body(self, chunk: bytes) -> int | None:
        """Collect a chunk of the body; returns 0 to stop the request after ``max_bytes``."""
        room = self._max_bytes - len(self.body)
        self.body += chunk[:room]
        return 0 if len(chunk) > room else None


@dataclass(eq=False, slots=True)
class Handle:
    """An easy handle, which serves many requests, and its callbacks."""

    curl: Any
    callbacks: Callbacks


# A forked child must not free the handles of its parent: that would send TLS close messages on
# connections that the parent still uses. Python would free them when it clears the thread-locals
# of the parent's other threads, which do not exist in the child, and when the child ends.
_lock = Lock()
_handles: WeakSet[Any] = WeakSet()
_inherited: list[Any] = []


def never_free_in_child(handle: Any) -> None:
    """Make sure that a forked child never frees this easy or multi handle."""
    with _lock:
        _handles.add(handle)


def _before_fork() -> None:
    _lock.acquire()
    _inherited.extend(_handles)


def _in_parent() -> None:
    _inherited.clear()
    _lock.release()


def _in_child() -> None:
    for handle in _inherited:
        # A list would keep the handle only until the interpreter shuts down.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
    _inherited.clear()
    _handles.clear()
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
