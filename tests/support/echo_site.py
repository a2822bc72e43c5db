"""Servers that repeat what they get: an API and webhook receiver over HTTP, and SMTP.

The text ``fate-NAME`` in the path or the body of a request decides the answer: a status, ``slow``,
``reset``, ``garbage`` or ``redirect``; without it, the answer is right. An answer for which jobs
are deferred is given twice to a path, and then 422.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import ssl
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.support.http_server import running

_DEFERRED = frozenset({"429", "503", "redirect", "slow"})
_FATE = re.compile(rb"fate-(\w+)")
#: Seconds of a slow answer: longer than the time-outs of the run.
SLOW = 4.0


@dataclass
class EchoSite:
    """What the servers got.

    Attributes:
        received: bytes of all requests and e-mails.
        collected: bodies that were sent to ``/collect/NAME`` and to Sentry's and OpenTelemetry's
            paths, by name.
    """

    received: list[bytes] = field(default_factory=list)
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    collected: defaultdict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, site: EchoSite) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.site = site

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients close connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self._read()
        if (name := _collector(self.path)) is not None:
            self.server.site.collected[name].append(_plain(body))
            self._answer(200, b"{}")
            return
        head = f"{self.path}\n{self.headers}".encode()
        self.server.site.received.append(head + body)
        found = _FATE.search(self.path.encode() + b"\n" + body)
        fate = found[1].decode() if found else "ok"
        self.server.site.answered[self.path, fate] += 1
        if fate in _DEFERRED and self.server.site.answered[self.path, fate] > 2:
            fate = "422"
        self._decide(fate, head, body)

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _decide(self, fate: str, head: bytes, body: bytes) -> None:
        echo = json.dumps({"detail": (head + body).decode("latin-1")}).encode()
        if fate == "ok":
            self._answer(200, _saved(body))
        elif fate == "slow":
            time.sleep(SLOW)
            self._answer(200, echo)
        elif fate == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
        elif fate == "garbage":
            self.wfile.write(b"HTP " + head + body)
            self.close_connection = True
        elif fate == "redirect":
            self._answer(302, echo, location=self.path + "?again=1")
        else:
            self._answer(int(fate), echo)

    def _answer(self, status: int, data: bytes, location: str | None = None) -> None:
        first = data[:200].decode("latin-1").replace("\r", " ").replace("\n", " ")
        self.send_response(status, first[:100] if status >= 400 else "OK")
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Echo", first)
        if location is not None:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _collector(path: str) -> str | None:
    """The name under which a body is collected; None for other requests."""
    if path.startswith("/collect/"):
        return path.split("/")[2].partition("?")[0]
    if path.startswith("/api/1/"):
        return "sentry"
    return "spans" if path == "/v1/traces" else None


def _plain(body: bytes) -> bytes:
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


def _saved(body: bytes) -> bytes:
    """The API's answer to a submission or partial, with all its values."""
    try:
        given = json.loads(body)
    except ValueError:
        given = {}
    given = given if isinstance(given, dict) else {"given": given}
    id = given.get("submissionId") or given.get("partialId") or "x"
    return json.dumps({**given, "id": id, "status": given.get("status", "completed")}).encode()


@contextmanager
def serving(site: EchoSite) -> Iterator[str]:
    """Serve over HTTP; yields the address."""
    with running(_Server(site)) as port:
        yield f"http://127.0.0.1:{port}"


@dataclass
class _Mail:
    """Refuses what an address or content asks for, and repeats it in its replies."""

    site: EchoSite

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        del server, session, options
        for name, code in (("refused", "550 5.1.1"), ("deferred", "451 4.7.1"), ("odd", "299")):
            if name in address:
                return f"{code} <{address}> is {address}"
        envelope.rcpt_tos.append(address)
        return f"250 2.1.5 <{address}> ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        del server, session
        self.site.received.append(envelope.content)
        if b"fate-554" in envelope.content:
            return "554 5.6.0 refused: " + envelope.content[-300:].decode("latin-1").replace(
                "\r\n", " "
            )
        return "250 2.0.0 taken"


@contextmanager
def mail_serving(site: EchoSite, certificate: Path) -> Iterator[int]:
    """Serve SMTP with STARTTLS and any login; yields the port."""
    from aiosmtpd.smtp import SMTP, AuthResult

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    loop = asyncio.new_event_loop()

    def login(*_: Any) -> Any:
        return AuthResult(success=True, handled=False)

    def smtp() -> Any:
        return SMTP(
            _Mail(site), loop=loop, tls_context=tls, authenticator=login, auth_required=True
        )

    server = loop.run_until_complete(loop.create_server(smtp, "127.0.0.1", 0))
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()
