"""A TCP proxy in front of a server, to lose on purpose what the network may lose."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Proxy:
    """Forwards connections to 127.0.0.1:``port``; ``lose_reply_to`` makes it lose one answer."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._needle: bytes | None = None
        self.lost = threading.Event()

    def lose_reply_to(self, needle: bytes) -> None:
        """Deliver the next request that holds ``needle``, and cut the connection at its answer."""
        self.lost.clear()
        self._needle = needle

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
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
