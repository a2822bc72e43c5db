"""A time-out for a whole request: requests only has one for each read.

A server that drips a byte a second never trips a time-out of one read. So
the sockets of a session look at the time that is left before each read.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

_local = threading.local()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Every read of this thread's sessions (:func:`new_session`) ends within ``seconds``."""
    _local.at = time.monotonic() + seconds
    try:
        yield
    finally:
        _local.at = None


def new_session() -> requests.Session:
    """A session whose adapters keep the deadline.

    What is sent by an adapter knows no proxies, no .netrc, no cookies and no redirects.
    """
    session = requests.Session()
    adapter = _Adapter(pool_connections=4, pool_maxsize=4)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def prepared(
    method: str, url: str, headers: dict[str, str], body: bytes | None
) -> requests.PreparedRequest:
    """A request as it is sent, of an address that is known to be right.

    By hand: what requests merges from a session and looks for in the address costs as much as
    sending it.
    """
    request = requests.PreparedRequest()
    request.method, request.url, request.body = method, url, body
    request.headers = CaseInsensitiveDict(headers)
    if body is not None:
        request.headers["Content-Length"] = str(len(body))
    return request


def _left(sock: socket.socket) -> None:
    at: float | None = getattr(_local, "at", None)
    if at is None:
        return
    left = at - time.monotonic()
    if left <= 0:
        raise TimeoutError("the request's time is up")
    sock.settimeout(left)


class _Socket(socket.socket):
    # http.client reads headers and body through makefile(), which calls only this.
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        _left(self)
        return super().recv_into(*args, **kwargs)


class _TLSSocket(ssl.SSLSocket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        _left(self)
        return super().recv_into(*args, **kwargs)


class _InOnePiece:
    """Sends the head of a request and its body together: one call of the system here, and one
    read on the other side."""

    _held: list[bytes] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._held = []
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
            held = b"".join(self._held)
        finally:
            self._held = None
        super().send(held)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self._held is not None and isinstance(data, bytes):
            self._held.append(data)
        else:
            super().send(data)  # type: ignore[misc]


class _Plain(_InOnePiece, HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _wrap(super()._new_conn())


class _TLS(_InOnePiece, HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _wrap(super()._new_conn())

    def connect(self) -> None:
        try:
            super().connect()
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError as error:
            # Told apart from TLS that breaks later, when something has been sent.
            raise NewConnectionError(self, "no TLS with the other side") from error


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLS


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _TLSSocket
        super().init_poolmanager(*args, **kwargs, ssl_context=context)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TLSPool}


def _wrap(sock: socket.socket) -> _Socket:
    timeout = sock.gettimeout()
    wrapped = _Socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    wrapped.settimeout(timeout)
    return wrapped
