"""A local server whose answers are raw bytes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

#: Answers a request on a connection; returns whether the connection stays open.
Answer = Callable[["Wire", socket.socket], bool]


@dataclass
class Wire:
    """The requests that a server received."""

    port: int = 0
    accepted: int = 0
    requests: list[bytes] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    bytes_sent: int = 0
    closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def headers(self, index: int = -1) -> list[str]:
        head = self.requests[index].partition(b"\r\n\r\n")[0]
        return head.decode("latin-1").split("\r\n")

    def body(self, index: int = -1) -> bytes:
        return self.requests[index].partition(b"\r\n\r\n")[2]


def answer(status: int, body: bytes = b"", *headers: str, kind: str = "application/json") -> Answer:
    """A complete answer with its length; the connection stays open."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    if body:
        lines.append(f"Content-Type: {kind}")
    return raw("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)


def raw(data: bytes, *, keep: bool = True) -> Answer:
    def send(wire: Wire, connection: socket.socket) -> bool:
        connection.sendall(data)
        return keep

    return send


def drip(start: bytes, piece: bytes = b"x", every: float = 0.05) -> Answer:
    """Send ``start``, then a piece at a time until the server is stopped."""

    def send(wire: Wire, connection: socket.socket) -> bool:
        connection.sendall(start)
        while not wire.stopping.wait(every):
            connection.sendall(piece)
        return False

    return send


def flood(start: bytes, size: int) -> Answer:
    """Send ``start``, then ``size`` bytes as fast as the client reads."""

    def send(wire: Wire, connection: socket.socket) -> bool:
        connection.sendall(start)
        block = b"x" * 65536
        while wire.bytes_sent < size and not wire.stopping.is_set():
            wire.bytes_sent += connection.send(block)
        return False

    return send


def silence(wire: Wire, connection: socket.socket) -> bool:
    wire.stopping.wait(10)
    return False


def reset(wire: Wire, connection: socket.socket) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


@contextmanager
def serving(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Wire]:
    """A server that gives ``answers`` in order, then repeats the last answer."""
    wire = Wire()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire.port = listener.getsockname()[1]
        connections: list[socket.socket] = []
        thread = threading.Thread(
            target=_accept, args=(listener, wire, answers, tls, connections), daemon=True
        )
        thread.start()
        try:
            yield wire
        finally:
            wire.stopping.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            thread.join(60)
            for connection in connections:
                connection.close()


def _accept(
    listener: socket.socket,
    wire: Wire,
    answers: tuple[Answer, ...],
    tls: ssl.SSLContext | None,
    connections: list[socket.socket],
) -> None:
    while not wire.stopping.is_set():
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        wire.accepted += 1
        connections.append(connection)
        threading.Thread(target=_serve, args=(wire, connection, answers, tls), daemon=True).start()


def _serve(
    wire: Wire, connection: socket.socket, answers: tuple[Answer, ...], tls: ssl.SSLContext | None
) -> None:
    connection.settimeout(10)
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        if tls is not None:
            connection = _with_tls(connection, tls)
        stack.callback(wire.closed.release)
        stack.callback(connection.close)
        while request := _request(connection):
            wire.requests.append(request)
            chosen = answers[min(len(wire.requests), len(answers)) - 1]
            if not chosen(wire, connection):
                return


def _with_tls(connection: socket.socket, tls: ssl.SSLContext) -> socket.socket:
    secure = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    try:
        secure.do_handshake()
    except OSError:
        # Closed with unread data, the connection would be reset, which may overtake the alert.
        while socket.socket.recv(secure, 65536):
            pass
        raise
    return secure


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.split(b":")[1]):
                body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
