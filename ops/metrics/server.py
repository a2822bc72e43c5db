"""Serves the pages on the port, in the one process of the machine that holds its lock."""

from __future__ import annotations

import logging
import os
import socket
import socketserver
import threading
import time
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from importlib.util import find_spec
from typing import Any
from weakref import WeakSet

from ...config import WorkerHttpSettings
from ...core.errors import describe
from ...core.hosts import is_loopback
from ...core.periodic import Periodic
from .files import WorkerFiles
from .pages import Request, Response, answer
from .queues import QueueReader

logger = logging.getLogger("formrelay.workers")

#: Maximum number of requests at a time; further connections are closed.
_MAX_REQUESTS = 16
#: Maximum size of a request's head in bytes, and maximum seconds until it has arrived.
_MAX_HEAD, _HEAD_SECONDS = 8_192, 5.0
#: Seconds between two log lines about a port that cannot be used.
_LOG_EVERY = 3_600.0
#: Seconds between two looks at the process that has the port, the time-out of each, and the number
#: in a row without an answer that is logged.
_PROBE_EVERY, _PROBE_SECONDS, _MAX_UNANSWERED = 30.0, 5.0, 2
#: A header by which a process knows that formrelay answers on the port.
_MARK = "Formrelay-Folder"


class PortServer:
    """Listens on the port as soon as no other process of the folder does, until :meth:`stop`.

    Args:
        every: time between two tries.
    """

    def __init__(
        self,
        settings: WorkerHttpSettings,
        files: WorkerFiles,
        queues: QueueReader,
        *,
        every: timedelta = timedelta(seconds=1),
    ) -> None:
        assert settings.port is not None
        self._address = (settings.host, settings.port)
        self._files, self._queues = files, queues
        self._taking = Periodic("http-port", every, self._take, at_once=True)
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._is_stopped = False
        self._logged_at: float | None = None
        self._probed_at, self._unanswered = time.monotonic(), 0

    def start(self) -> None:
        """Start the thread that tries to take the port."""
        self._taking.start()

    def stop(self) -> None:
        """Stop listening, and let another process take the port."""
        self._taking.stop()
        with self._lock:
            self._is_stopped = True
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        self._queues.stop()
        self._files.leave_port()

    @property
    def serves(self) -> bool:
        """Whether this process listens on the port."""
        return self._server is not None

    def _take(self) -> None:
        with self._lock:
            if self._is_stopped:
                return
            has_port = self._files.take_port()  # again, if the file of the lock was removed
            if self._server is not None:
                return
        if not has_port:
            self._probe()
            return
        with self._lock:
            if self._is_stopped:  # which has left the port
                return
            try:
                server = _Server(self._address, self._files, self._queues)
            except OSError as error:
                self._log_problem(error)
                return
            self._server = server
        if self._logged_at is not None:
            logger.info("the port of metrics is free now", extra={"port": self._address[1]})
        if find_spec("prometheus_client") is None:
            logger.warning("/metrics needs a package: pip install 'formrelay[metrics]'")
        self._queues.start()
        threading.Thread(
            target=server.serve_forever, args=(0.2,), name="formrelay-http", daemon=True
        ).start()

    def _probe(self) -> None:
        """Look now and then whether the process with the port answers; log if it hangs."""
        if time.monotonic() - self._probed_at < _PROBE_EVERY:
            return
        answers = _head_of(self._address, _PROBE_SECONDS) != ""
        self._probed_at = time.monotonic()
        self._unanswered = 0 if answers else self._unanswered + 1
        if self._unanswered == _MAX_UNANSWERED:
            logger.error(
                "the worker process that serves WORKER_HTTP_PORT does not answer: it hangs",
                extra={"port": self._address[1]},
            )

    def _log_problem(self, error: OSError) -> None:
        """Log why the port cannot be used: once, and then once an hour."""
        now = time.monotonic()
        if self._logged_at is not None and now - self._logged_at < _LOG_EVERY:
            return
        self._logged_at = now
        host, port = self._address
        other = _folder_of(self._address)
        about: dict[str, Any] = {"host": host, "port": port, "error_message": describe(error)}
        if other:
            about["error_message"] = f"workers with the folder {other} serve it"
            about["folder"] = str(self._files.folder)
            says = "WORKER_HTTP_PORT is in use: set the same WORKER_HTTP_DIR for all workers"
        else:
            about["error_message"] = _reason(error)
            says = "cannot listen on WORKER_HTTP_PORT, retrying"
        logger.error(says, extra=about)


def _reason(error: OSError) -> str:
    """Return the system's text, without the address: that is in fields of its own."""
    if isinstance(error, socket.gaierror):  # its numbers are none of errno's
        return str(error.strerror)
    return os.strerror(error.errno) if error.errno else describe(error)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens on an address. A forked process closes its copy of the socket."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], files: WorkerFiles, queues: QueueReader) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.files, self.queues = files, queues
        self._free = threading.BoundedSemaphore(_MAX_REQUESTS)
        super().__init__(address, _Handler)
        _servers.add(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.error("a page of WORKER_HTTP_PORT failed", exc_info=True)


_servers: WeakSet[_Server] = WeakSet()


def _in_child() -> None:
    for server in list(_servers):
        server.socket.close()


os.register_at_fork(after_in_child=_in_child)


class _Handler(socketserver.BaseRequestHandler):
    """Answers one request, and closes the connection."""

    server: _Server

    def handle(self) -> None:
        head = self._read_head()
        if head is None:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            response = Response(b"expected HTTP/1.1\n", 400)
        elif method not in ("GET", "HEAD"):
            response = Response(b"expected GET\n", 405, headers={"Allow": "GET, HEAD"})
        else:
            headers = dict(_header(line) for line in lines)
            response = self._answer(target.partition("?")[0], headers)
        self._send(response, with_body=method != "HEAD")

    def _answer(self, path: str, headers: dict[str, str]) -> Response:
        files, queues = self.server.files, self.server.queues
        is_local = _is_local(self.client_address[0], headers)
        try:
            return answer(Request(path, headers.get("accept", ""), files, queues, is_local))
        except Exception as error:
            logger.error("a page of WORKER_HTTP_PORT failed", exc_info=error)
            return Response(b"internal error; see the log of the workers\n", 500)

    def _read_head(self) -> bytes | None:
        """Read the head of the request; None if it is too long or too late."""
        end, head = time.monotonic() + _HEAD_SECONDS, b""
        with suppress(OSError):
            while (left := end - time.monotonic()) > 0 and len(head) < _MAX_HEAD:
                self.request.settimeout(left)
                data = self.request.recv(_MAX_HEAD)
                head += data
                if not data or b"\r\n\r\n" in head:
                    return head.partition(b"\r\n\r\n")[0] if data else None
        return None

    def _send(self, response: Response, *, with_body: bool) -> None:
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
            **response.headers,
        }
        if is_loopback(self.client_address[0]):  # others need not know the folder
            headers[_MARK] = str(self.server.files.folder)
        status = HTTPStatus(response.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        self.request.settimeout(_HEAD_SECONDS)
        with suppress(OSError):  # the client has gone
            self.request.sendall(head + (response.body if with_body else b""))


def _is_local(client: str, headers: dict[str, str]) -> bool:
    """Whether a program of this machine asks, and no page of another site or proxy for it.

    A site may let its own name resolve to a loopback address (DNS rebinding).
    """
    name, _, port = headers.get("host", "").rpartition(":")
    host = name if name and port.isdecimal() else headers.get("host", "")
    via_proxy = {"forwarded", "x-forwarded-for", "x-real-ip", "via"} & headers.keys()
    return is_loopback(client) and is_loopback(host.strip("[]").lower()) and not via_proxy


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _folder_of(address: tuple[str, int]) -> str:
    """The folder of the formrelay workers that answer on an address; empty if none do."""
    lines = _head_of(address, 1.0).split("\r\n")
    return dict(_header(line) for line in lines).get(_MARK.lower(), "")


def _head_of(address: tuple[str, int], timeout: float) -> str:
    """The head of the answer on an address; empty without an answer."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])  # noqa: S104
    to = host, address[1]
    with suppress(OSError), socket.create_connection(to, timeout=timeout) as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return connection.recv(_MAX_HEAD).decode("latin-1")
    return ""
