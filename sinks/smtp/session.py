"""A session with an SMTP server: connecting, TLS, EHLO, login, and its state between messages."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta

from ...core.clock import Clock
from ...core.errors import SinkError, SinkUnavailable, SinkUnready
from .account import Account, system_tls_context
from .auth import log_in
from .connection import Garbled, Lost, SmtpConnection, Untrusted
from .replies import Reply, Step, make_reply
from .shares import Share

_KEYWORD = re.compile(r"[A-Z0-9][A-Z0-9-]{0,31}\Z")
_MECHANISM = re.compile(r"[A-Z0-9_-]{1,20}\Z")
_FULL_NAME = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+\Z")
#: The server does not know EHLO (RFC 5321, section 3.2).
_NO_EHLO = frozenset({500, 501, 502, 504, 550})


class Closing(SinkUnavailable):
    """The server answers 421: it closes the connection.

    Attributes:
        reply: the answer.
    """

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message, code=reply.code)
        self.reply = reply


class Session:
    """A connection that is ready for messages after :meth:`open`. Not thread-safe.

    Attributes:
        features: what the server offers, by keyword in upper case: the parameters, in upper case.
        sent: number of transactions begun.
        is_broken: the connection cannot be used any longer.
        share: its right to exist, which :meth:`close` gives back; None without a limit.
        steps: what :meth:`open` did, for people: the step and the server's answer.
    """

    def __init__(self, account: Account, clock: Clock) -> None:
        self.account = account
        self.features: dict[str, str] = {}
        self.sent = 0
        self.is_broken = False
        self.share: Share | None = None
        self.steps: list[tuple[str, str]] = []
        self._clock = clock
        self._connection = SmtpConnection()
        self._used = clock.monotonic()

    def open(self) -> None:
        """Connect and log in.

        Raises:
            Closing: the server answered 421.
            SinkUnavailable: no connection, or the server is not ready.
            SinkUnready: an operator has to act: certificate, STARTTLS or login.
        """
        try:
            self._open()
        except Untrusted as lost:
            raise SinkUnready(self._about(f"its certificate is not trusted: {lost}")) from None
        except Lost as lost:
            raise SinkUnavailable(self._about(str(lost))) from None
        except SinkError as error:
            if not str(error).startswith(self._name):
                error.reword(self._about(str(error)))
            raise

    def _open(self) -> None:
        account, timeouts = self.account, self.account.timeouts
        self._connection.connect(account.host, account.port, timeouts.connect)
        if account.security == "tls":
            self._start_tls()
        code, lines = self._read(timeouts.greeting)
        if code != 220:
            raise SinkUnavailable(f"it refuses the connection: {_shown(code, lines)}", code=code)
        self.steps.append(("connect", _shown(code, lines)))
        self._greet()
        if account.security == "starttls":
            if "STARTTLS" not in self.features:
                raise SinkUnready(
                    "expected it to offer STARTTLS, it does not; nothing is sent unencrypted. Check"
                    " the port (465 needs smtps://) and what lies between; smtp+none:// is for a "
                    "relay of your own"
                )
            code, lines = self.command(b"STARTTLS", timeouts.greeting)
            if code != 220:
                kind = SinkUnavailable if code < 500 else SinkUnready
                raise kind(f"it refuses STARTTLS: {_shown(code, lines)}", code=code)
            self._start_tls()
            self._greet()  # what the server offered unencrypted may be forged
        self.steps.append(("ehlo", " ".join(sorted(self.features)) or "no extensions"))
        log_in(self, account, self._mechanisms())
        if account.user is not None:
            self.steps.append(
                ("login", f"accepted for {'a token' if account.token else 'a password'}")
            )

    def _start_tls(self) -> None:
        context = self.account.tls_context or system_tls_context()
        self._connection.start_tls(context, self.account.host, self.account.timeouts.tls)
        self.steps.append(("tls", self._connection.encryption))

    def _greet(self) -> None:
        """Say EHLO and note what the server offers; HELO to a server without EHLO."""
        name, timeout = self._client_name(), self.account.timeouts.greeting
        code, lines = self.command(b"EHLO " + name, timeout)
        self.features = _features(lines[1:]) if code == 250 else {}
        if code in _NO_EHLO and self.account.user is None and not self._needs_starttls:
            code, lines = self.command(b"HELO " + name, timeout)
        if code != 250:
            kind = SinkUnavailable if code < 500 else SinkUnready
            raise kind(f"it refuses EHLO: {_shown(code, lines)}", code=code)

    @property
    def _needs_starttls(self) -> bool:
        return self.account.security == "starttls" and not self._connection.is_encrypted

    def _client_name(self) -> bytes:
        name = self.account.client_name or socket.gethostname()
        if self.account.client_name or _FULL_NAME.match(name):
            return name.encode("ascii")
        address = ipaddress.ip_address(self._connection.local_address.partition("%")[0])
        return f"[{'IPv6:' if address.version == 6 else ''}{address}]".encode()

    def _mechanisms(self) -> list[str]:
        names = self.features.get("AUTH", "").replace("=", " ").split()
        return [name for name in dict.fromkeys(names) if _MECHANISM.match(name)]

    def ask(self, line: bytes) -> tuple[int, list[bytes]]:
        """Send a line of a login and return the reply."""
        return self.command(line, self.account.timeouts.login)

    def command(self, line: bytes, timeout: timedelta) -> tuple[int, list[bytes]]:
        """Send a command and return the code and the texts of its reply.

        Raises:
            Closing: the server answered 421.
            Lost: the connection is lost.
        """
        self.expect_silence()
        self._connection.send(line + b"\r\n", timeout)
        return self._read(timeout)

    def write(self, data: bytes, timeout: timedelta) -> None:
        """Send bytes as they are."""
        self._connection.send(data, timeout)

    def read(
        self, timeout: timedelta, step: Step, hidden: Iterable[str], *, about_recipient: bool
    ) -> Reply:
        """Read the reply to a command of a transaction; :class:`Closing` for 421."""
        code, lines = self._connection.read_reply(timeout)
        reply = make_reply(
            code, lines, step=step, hidden=hidden, is_about_recipient=about_recipient
        )
        if code == 421:
            raise Closing(self._about(f"it closes the connection: {reply}"), reply)
        return reply

    def expect_silence(self) -> None:
        """Check that the server has sent nothing unasked and has not closed the connection."""
        try:
            self._connection.expect_silence()
        except Garbled:
            # It may be a notice: a server that shuts down says 421 unasked (RFC 5321, 3.8).
            self._read(timedelta(seconds=1))
            raise

    def _read(self, timeout: timedelta) -> tuple[int, list[bytes]]:
        code, lines = self._connection.read_reply(timeout)
        if code == 421:
            reply = make_reply(code, lines, step="lost")
            raise Closing(self._about(f"it closes the connection: {reply}"), reply)
        return code, lines

    def reset(self) -> None:
        """End a transaction with RSET; marks the session as broken if that fails."""
        self._try(b"RSET")

    def is_usable(self) -> bool:
        """Whether the session can be used after a pause; asks the server after a longer one."""
        account, pause = self.account, self._clock.monotonic() - self._used
        is_lost = self.share is not None and self.share.is_lost
        if is_lost or self.is_broken or self.is_spent or pause > account.idle.total_seconds():
            return False
        if pause > account.check_after.total_seconds():
            self._try(b"NOOP")
        else:
            try:
                self.expect_silence()
            except (Lost, Closing):
                self.is_broken = True
        return not self.is_broken

    def _try(self, command: bytes) -> None:
        try:
            code, _ = self.command(command, self.account.timeouts.reset)
            self.is_broken |= code != 250
        except (Lost, Closing):
            self.is_broken = True

    @property
    def is_spent(self) -> bool:
        """Whether the connection has had its maximum number of messages."""
        limit = min(self.account.max_messages, self.limit("MAILMAX", self.account.max_messages))
        return self.sent >= limit

    @property
    def expires(self) -> float:
        """When the unused session should be closed, in the clock's monotonic seconds."""
        return self._used + self.account.idle.total_seconds()

    def touch(self) -> None:
        """Note that the session was used now."""
        self._used = self._clock.monotonic()

    def limit(self, name: str, default: int) -> int:
        """A limit that the server announces (RFC 9422), at least 1."""
        for word in self.features.get("LIMITS", "").split():
            key, _, value = word.partition("=")
            if key == name and value.isascii() and value.isdigit() and 0 < len(value) <= 6:
                return max(int(value), 1)
        return default

    def quit(self) -> None:
        """Say QUIT, wait for the answer for a moment, and close."""
        if not self.is_broken:
            with suppress(Lost, Closing):
                self.command(b"QUIT", self.account.timeouts.quit)
        self.close()

    def close(self) -> None:
        """Close the connection without QUIT."""
        self.is_broken = True
        self._connection.close()
        if self.share is not None:
            self.share.give_back()

    @property
    def _name(self) -> str:
        return f"SMTP server {self.account.host}:{self.account.port}: "

    def _about(self, text: str) -> str:
        return self._name + text


def _features(lines: Sequence[bytes]) -> dict[str, str]:
    """The keywords of an answer to EHLO, with their parameters."""
    found: dict[str, str] = {}
    for line in lines:
        text = line.decode("ascii", "replace").strip().upper()
        # "AUTH=LOGIN" is how old Microsoft servers say "AUTH LOGIN".
        keyword, _, parameters = text.replace("AUTH=", "AUTH ", 1).partition(" ")
        if _KEYWORD.match(keyword):
            found[keyword] = f"{found.get(keyword, '')} {parameters}".strip()
    return found


def _shown(code: int, lines: Sequence[bytes]) -> str:
    return str(make_reply(code, lines, step="check"))
