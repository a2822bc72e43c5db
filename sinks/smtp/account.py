"""An account at an SMTP server: where it is, how to log in, and the time-outs of each phase."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Literal

from ...core.errors import ConfigError
from ...core.hosts import is_loopback

Security = Literal["starttls", "tls", "none"]

_SECURITIES = ("starttls", "tls", "none")
#: A host name, or an address literal (RFC 5321, section 4.1.3).
_CLIENT_NAME = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z|\[[A-Fa-f0-9:.IPv]+\]\Z"
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each phase may take (RFC 5321, section 4.5.3.2).

    Attributes:
        connect: the TCP connection, all addresses of the host together.
        tls: the TLS handshake.
        greeting: the banner, and the answers to EHLO and STARTTLS, each.
        login: each answer while logging in.
        mail: the answer to MAIL.
        rcpt: the answer to each RCPT.
        data: the answer to DATA.
        block: each 64 KiB of the message.
        dot: the answer to the end of the message. A shorter time-out makes duplicates: the server
            may have accepted the message when it ends.
        reset: the answers to RSET and NOOP.
        quit: the answer to QUIT.
    """

    connect: timedelta = timedelta(seconds=30)
    tls: timedelta = timedelta(seconds=30)
    greeting: timedelta = timedelta(seconds=300)
    login: timedelta = timedelta(seconds=60)
    mail: timedelta = timedelta(seconds=300)
    rcpt: timedelta = timedelta(seconds=300)
    data: timedelta = timedelta(seconds=120)
    block: timedelta = timedelta(seconds=180)
    dot: timedelta = timedelta(seconds=600)
    reset: timedelta = timedelta(seconds=20)
    quit: timedelta = timedelta(seconds=2)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, timedelta) or value <= timedelta(0):
                raise ConfigError(f"expected the time-out {each.name} to be positive, got {value}")


@dataclass(frozen=True, slots=True)
class Account:
    """An account at an SMTP server.

    Attributes:
        security: ``starttls`` (usually port 587), ``tls`` from the first byte (port 465), or
            ``none``.
        user: user name; None sends without a login.
        password: returns the password; called for each login, since secrets rotate.
        token: returns the access token for XOAUTH2; its argument asks for a new token, because the
            server refused the last one. With a token, no password is used.
        timeouts: see :class:`Timeouts`.
        max_connections: maximum number of connections of a process at a time.
        max_messages: number of messages after which a connection is closed.
        idle: time after which an unused connection is closed.
        check_after: time after which an unused connection is tested before it is used.
        max_wait: how long a thread waits for one of ``max_connections``.
        tls_context: see :func:`make_tls_context`; None trusts the system's authorities.
        client_name: host name of this machine for EHLO; None for its name, if that is a full name,
            else its address.

    Raises:
        ConfigError: a value is wrong.
    """

    host: str
    port: int
    security: Security = "starttls"
    user: str | None = field(default=None, repr=False)
    password: Callable[[], str | None] | None = field(default=None, repr=False)
    token: Callable[[bool], str] | None = field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()
    max_connections: int = 3
    max_messages: int = 100
    idle: timedelta = timedelta(seconds=60)
    check_after: timedelta = timedelta(seconds=10)
    max_wait: timedelta = timedelta(minutes=5)
    tls_context: ssl.SSLContext | None = field(default=None, repr=False)
    client_name: str | None = None

    def __post_init__(self) -> None:
        if self.security not in _SECURITIES:
            raise ConfigError(
                f"expected the security to be 'starttls', 'tls' or 'none', got {self.security!r}"
            )
        for name in ("max_connections", "max_messages"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        if self.client_name is not None and not _CLIENT_NAME.match(self.client_name):
            raise ConfigError("expected the client name to be a host name or '[address]'")
        if self.user is not None and self.password is None and self.token is None:
            raise ConfigError("expected a password or a token for the SMTP user, got neither")
        if self.user is None and self.token is not None:
            raise ConfigError("expected an SMTP user for the token, got none")
        if self.user is not None and self.security == "none" and not is_loopback(self.host):
            raise ConfigError(
                "expected security 'starttls' or 'tls' for a login at another machine, got 'none': "
                "the password would be sent unencrypted"
            )
        context = self.tls_context
        if context and not (context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED):
            raise ConfigError("expected a TLS context that checks the server's certificate")


def make_tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """A TLS context that checks certificates.

    Args:
        ca_file: PEM file of the authorities to trust instead of the system's.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one too
        raise ConfigError(
            f"expected a PEM file of certificate authorities at {ca_file}, got "
            f"{error.strerror or 'something else'}"
        ) from None


@cache
def system_tls_context() -> ssl.SSLContext:
    """The TLS context that trusts the system's authorities, which takes a while to make."""
    return make_tls_context()
