"""A connection to an SMTP server: lines, replies and TLS, each with a deadline.

``smtplib`` is not used here. Its time-out is for each ``recv``, so a server that sends a byte now
and then blocks a thread for ever. It reads any number of continuation lines. It takes a reply that
was sent before its command for the answer (also across STARTTLS, CVE-2011-0411), so a message that
the server did not accept would count as accepted. And it cannot pipeline commands.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

#: RFC 5321, section 4.5.3.1.5 allows 512 bytes for a line; servers send more.
_MAX_LINE = 4096
_MAX_LINES = 256
_BLOCK = 65_536
#: A blocked thread runs Python code this often, so that Dramatiq's exceptions (time limit,
#: shutdown) reach it.
_SLICE = 1.0
_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])([^\r\n]*))?\r?\n\Z")
#: Minimum number of seconds that each address of a host may take to connect.
_LEAST_PER_ADDRESS = 2.0


class Lost(Exception):
    """The connection cannot be used any longer.

    The message says why in a few words, without anything that the server sent.
    """


class TimedOut(Lost):
    """The server did not answer in time."""


class Garbled(Lost):
    """The server sent something other than a reply, or a reply to no command."""


class Untrusted(Lost):
    """The server's certificate is not trusted."""


class SmtpConnection:
    """A connection. Not thread-safe.

    All methods raise :class:`Lost`; the caller then calls :meth:`close`.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._buffer = bytearray()

    def connect(self, host: str, port: int, timeout: timedelta) -> None:
        """Connect to the first address of ``host`` that answers.

        The system's resolver has its own time-outs.
        """
        deadline = time.monotonic() + timeout.total_seconds()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise Lost("host name not found") from None
        failure = Lost("host name not found")
        for number, (family, kind, protocol, _, address) in enumerate(found):
            rest = deadline - time.monotonic()
            share = max(rest / (len(found) - number), _LEAST_PER_ADDRESS)
            try:
                self._socket = socket.socket(family, kind, protocol)
                self._connect(address, time.monotonic() + min(share, max(rest, 0.001)))
                return
            except Lost as lost:
                failure = lost
            except OSError:
                failure = Lost("host unreachable")
            self.close()
        raise failure

    def _connect(self, address: object, deadline: float) -> None:
        sock = self._open_socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)  # type: ignore[arg-type]
        try:
            self._wait(select.POLLOUT, deadline)
        except TimedOut:
            raise TimedOut("connecting timed out") from None
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise Lost("connection refused or host unreachable")
        # The end of a message is a small packet of its own, which must not wait for an answer to
        # the packet before.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start_tls(self, context: ssl.SSLContext, host: str, timeout: timedelta) -> None:
        """Encrypt the connection and check the certificate."""
        if self._buffer:
            raise Garbled("it sent plain text behind its answer to STARTTLS")
        deadline = time.monotonic() + timeout.total_seconds()
        try:
            secure = context.wrap_socket(
                self._open_socket(), server_hostname=host, do_handshake_on_connect=False
            )
            self._socket = secure
            self._repeat(secure.do_handshake, select.POLLIN, deadline)
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(error.verify_message or "not trusted") from None
        except TimedOut:
            raise TimedOut("the TLS handshake timed out") from None
        except (OSError, ValueError):
            raise Lost("the TLS handshake failed") from None

    @property
    def is_encrypted(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket)

    @property
    def encryption(self) -> str:
        """TLS version, cipher and the server's certificate; empty without TLS."""
        if not isinstance(self._socket, ssl.SSLSocket):
            return ""
        cipher, certificate = self._socket.cipher(), self._socket.getpeercert() or {}
        names = [str(name[1]) for name in certificate.get("subjectAltName", ())]
        parts = (
            self._socket.version(),
            cipher and cipher[0],
            f"certificate for {', '.join(names[:3])}" if names else "",
            f"valid until {certificate.get('notAfter', 'unknown')}",
        )
        return "; ".join(part for part in parts if part)

    @property
    def local_address(self) -> str:
        """The IP address of this side."""
        return str(self._open_socket().getsockname()[0])

    def send(self, data: bytes, timeout: timedelta) -> None:
        """Hand ``data`` to the operating system, at most 64 KiB in each ``timeout``."""
        view, sock = memoryview(data), self._open_socket()
        try:
            while view:
                deadline = time.monotonic() + timeout.total_seconds()
                block = view[:_BLOCK]
                while block:
                    sent = self._send(sock, block, deadline)
                    block, view = block[sent:], view[sent:]
        except OSError:
            raise Lost("it closed the connection") from None

    def _send(self, sock: socket.socket, block: memoryview, deadline: float) -> int:
        return self._repeat(lambda: sock.send(block), select.POLLOUT, deadline)

    def read_reply(self, timeout: timedelta) -> tuple[int, list[bytes]]:
        """Read a reply: its code and the text of each line.

        Args:
            timeout: for the whole reply, however slowly its bytes come.
        """
        deadline = time.monotonic() + timeout.total_seconds()
        texts: list[bytes] = []
        while len(texts) < _MAX_LINES:
            found = _LINE.match(self._read_line(deadline))
            if found is None:
                raise Garbled("it sent a line that is not a reply of SMTP")
            code, dash, text = found.groups()
            texts.append(text or b"")
            if dash != b"-":
                return int(code), texts
        raise Garbled("it sent a reply without an end")

    def expect_silence(self) -> None:
        """Check that the server has sent nothing and has not closed the connection.

        Anything that it sent is a reply to no command. Reading on, it would be taken for the
        answer to the next one.

        Raises:
            Garbled: it has sent something, which :meth:`read_reply` can read.
            Lost: the connection is closed.
        """
        if not self._buffer:
            # Not poll(): under TLS, a session ticket is input too, though none for us.
            sock = self._open_socket()
            try:
                data = sock.recv(_MAX_LINE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                raise Lost("it closed the connection") from None
            if not data:
                raise Lost("it closed the connection")
            self._buffer += data
        raise Garbled("it sent a reply to no command")

    def close(self) -> None:
        """Close the connection at once. Also for a forked child: its parent's stays open."""
        sock, self._socket = self._socket, None
        self._buffer.clear()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _read_line(self, deadline: float) -> bytes:
        while (end := self._buffer.find(b"\n", 0, _MAX_LINE)) < 0:
            if len(self._buffer) >= _MAX_LINE:
                raise Garbled("it sent a line without an end")
            sock = self._open_socket()
            try:
                data = self._repeat(lambda: sock.recv(_MAX_LINE), select.POLLIN, deadline)  # noqa: B023
            except OSError:
                raise Lost("it closed the connection") from None
            if not data:
                raise Lost("it closed the connection")
            self._buffer += data
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    def _repeat(self, operation: Callable[[], T], event: int, deadline: float) -> T:
        """Repeat an operation of a non-blocking socket until it succeeds."""
        while True:
            wanted = event
            try:
                return operation()
            except BlockingIOError:
                pass
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            self._wait(wanted, deadline)

    def _wait(self, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._open_socket(), event)
        while (rest := deadline - time.monotonic()) > 0:
            if poll.poll(1000 * min(rest, _SLICE)):
                return
        raise TimedOut("it did not answer in time")

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise Lost("the connection is closed")
        return self._socket
