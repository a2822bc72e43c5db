"""A TCP proxy that simulates network failures."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Self


class Proxy:
    """Forwards connections to 127.0.0.1:``port`` until a test asks for a failure."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._needle: bytes | None = None
        self.lost = threading.Event()
        self._connections: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._silent: set[socket.socket] | None = set()
        self.accepted = 0

    def forget(self, *, is_reset: bool = True) -> None:
        """Drop the open connections, as load balancers drop idle connections.

        Args:
            is_reset: send RST in answer to the client's next packet; False: send FIN at once.
        """
        if is_reset:
            self._forgotten |= self._connections
            return
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def swallow(self, *, is_for_new: bool = True) -> None:
        """Discard all traffic. Connections stay open, and new connections are accepted.

        Args:
            is_for_new: also discard the traffic of new connections.
        """
        self._silent = None if is_for_new else set(self._connections)

    def lose_reply_to(self, needle: bytes) -> None:
        """Forward the next request that contains ``needle``, but close instead of its reply."""
        self.lost.clear()
        self._needle = needle

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    def refuse(self) -> None:
        """Stop accepting connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or accept() would take one more
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                self._connections.add(client)
                server = socket.create_connection(("127.0.0.1", self._target))
                doomed = threading.Event()
                for source, sink, is_request in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._forward,
                        args=(source, sink, is_request, doomed),
                        daemon=True,
                    ).start()

    def _forward(
        self, source: socket.socket, sink: socket.socket, is_request: bool, doomed: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if self._silent is None or {source, sink} & self._silent:
                    continue
                if is_request and source in self._forgotten:
                    linger = struct.pack("ii", 1, 0)  # close() then sends RST
                    source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    source.close()
                    sink.close()
                    return
                if is_request and self._needle is not None and self._needle in data:
                    self._needle = None
                    doomed.set()
                elif not is_request and doomed.is_set():
                    self.lost.set()
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._connections.discard(end)
