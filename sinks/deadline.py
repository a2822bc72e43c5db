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
    """A session that keeps the deadline, without proxies, .netrc or redirects of its own."""
    session = _Session()
    session.trust_env = False
    adapter = _Adapter(pool_connections=4, pool_maxsize=4)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        # Even where it may not follow one, requests would read a redirect's whole body.
        return None


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


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _wrap(super()._new_conn())


class _TLS(HTTPSConnection):
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
