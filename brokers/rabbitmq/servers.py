"""The servers of RABBITMQ_URL: hosts, credentials, TLS, and the errors of connecting to them."""

from __future__ import annotations

import re
import socket
import ssl
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import pika
from pika import spec

from ...core.errors import ConfigError
from ...core.failure import worker_name
from ...core.server_info import ServerInfo
from ..errors import BrokerRefused, BrokerUnavailable
from .errors import ACCESS_REFUSED, NOT_ALLOWED, NoAnswer

#: The product name by which RabbitMQ lists our connections.
PRODUCT = "formrelay"
#: Query options that are parsed here; pika parses all others.
_TLS_OPTIONS = ("cafile", "certfile", "keyfile")
#: OpenSSL's codes for a certificate, or a part of its chain, that no known authority has signed.
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)


def servers(url: str, *, timeout: timedelta) -> list[pika.URLParameters]:
    """Parse a URL into the servers of a cluster; clients connect to any of them.

    Several hosts are separated by commas (``amqp://user:password@one,two:5673/vhost``), several
    URLs by semicolons. User and password may contain any character, percent-encoded or not.
    ``amqps://`` verifies the server's certificate and host name; ``?cafile=…`` names a private
    certificate authority, ``certfile`` and ``keyfile`` a client certificate. pika parses all other
    query options.

    Args:
        timeout: to connect, and to wait for an answer.

    Raises:
        ConfigError: the URL is invalid. The message quotes no part of it.
    """
    found: list[pika.URLParameters] = []
    for part in re.split(r";(?=amqps?://)", url.strip().rstrip(";")):
        scheme, _, rest = part.partition("://")
        if scheme not in ("amqp", "amqps") or not rest:
            raise ConfigError("expected a URL like amqp://user:password@host:5672/vhost")
        # Split at the last @: the password may contain others.
        credentials, at, place = rest.rpartition("@")
        hosts, slash, tail = place.partition("/")
        if not slash:
            hosts, question, options = place.partition("?")
            slash, tail = question and "/%2F", question + options
        login = _quoted(credentials) + at
        found += [
            _server(f"{scheme}://{login}{host}{slash}{tail}", timeout) for host in hosts.split(",")
        ]
    return found


def address(server: pika.URLParameters) -> str:
    """The server as host:port."""
    return f"{server.host}:{server.port}"


def _quoted(credentials: str) -> str:
    user, colon, password = credentials.partition(":")
    return quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")


def _server(url: str, timeout: timedelta) -> pika.URLParameters:
    base, _, query = url.partition("?")
    options = parse_qsl(query)
    tls = {name: value for name, value in options if name in _TLS_OPTIONS}
    query = urlencode([option for option in options if option[0] not in _TLS_OPTIONS])
    try:
        found = pika.URLParameters(f"{base}?{query}" if query else base)
    except (TypeError, ValueError, KeyError, SyntaxError):
        raise ConfigError("expected a URL like amqp://user:password@host:5672/vhost") from None
    if tls and found.ssl_options is None:
        raise ConfigError(f"expected amqps:// with {', '.join(tls)}, got amqp://")
    if tls:
        found.ssl_options = pika.SSLOptions(_context(tls))
    found.socket_timeout = timeout.total_seconds()
    return found


def _context(tls: dict[str, str]) -> ssl.SSLContext:
    """A TLS context that verifies the certificate and the host name, as pika does by default."""
    try:
        context = ssl.create_default_context(cafile=tls.get("cafile"))
        if "certfile" in tls:
            context.load_cert_chain(tls["certfile"], tls.get("keyfile"))
    except OSError as error:
        files = ", ".join(tls.values())
        raise ConfigError(
            f"expected {files} to be certificates in PEM, got: {error.strerror or error}"
        ) from None
    return context


def _advice(error: ssl.SSLCertVerificationError) -> str:
    """Say what to do about a certificate whose authority is not known; empty for other faults."""
    if error.verify_code not in _UNKNOWN_AUTHORITY:
        return ""
    return "; the file of ?cafile= in RABBITMQ_URL must contain its certificate authority"


def dial(server: pika.URLParameters) -> socket.socket:
    """Open a TCP connection to a server, with TLS if its URL says so.

    Raises:
        BrokerUnavailable: the server does not answer.
        BrokerRefused: the server's certificate is not trusted.
    """
    try:
        plain = socket.create_connection((server.host, server.port), server.socket_timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            tls = server.ssl_options
            if tls is None:
                return plain
            context: ssl.SSLContext = tls.context
            return context.wrap_socket(plain, server_hostname=tls.server_hostname or server.host)
        except BaseException:
            plain.close()
            raise
    except ssl.SSLCertVerificationError as error:
        raise BrokerRefused(
            f"expected RabbitMQ at {address(server)} to present a trusted certificate, got: "
            f"{error.verify_message}{_advice(error)}"
        ) from None
    except OSError as error:
        raise no_answer(address(server), server.socket_timeout, error) from None


def client_properties() -> dict[str, object]:
    """Client properties, as shown by ``rabbitmqctl list_connections`` and the management UI."""
    return {
        "product": PRODUCT,
        "connection_name": worker_name(),
        "capabilities": {
            "authentication_failure_close": True,
            "basic.nack": True,
            "connection.blocked": True,
            "consumer_cancel_notify": True,
            "exchange_exchange_bindings": True,
            "publisher_confirms": True,
        },
    }


def no_answer(where: str, timeout: float, error: OSError) -> BrokerUnavailable:
    """The error for a server that does not answer, or no longer answers."""
    is_timeout = isinstance(error, TimeoutError)
    cause = error.strerror or str(error) or type(error).__name__
    if is_timeout:
        cause = f"nothing within {timeout:g} s"
    return (NoAnswer if is_timeout else BrokerUnavailable)(
        f"expected RabbitMQ at {where} to answer, got {cause}; check that it runs and that "
        "RABBITMQ_URL is right"
    )


def login_refused(where: str, close: spec.Connection.Close) -> BrokerRefused | None:
    """The error for a connection that the server closed; None if it did not refuse the user."""
    if close.reply_code == ACCESS_REFUSED:
        return BrokerRefused(
            f"expected RabbitMQ at {where} to accept the user and password of RABBITMQ_URL, it "
            "refused them: check both"
        )
    if close.reply_code == NOT_ALLOWED:
        return BrokerRefused(
            f"expected RabbitMQ at {where} to let the user into the virtual host, it refused "
            f"({close.reply_text}): check the path of RABBITMQ_URL and the user's permissions"
        )
    return None


def server_info(start: Any) -> ServerInfo:
    """Product and version of a server, from the method with which it starts the handshake."""
    properties = start.server_properties or {}

    def text(name: str) -> str:
        value = properties.get(name, "")
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    return ServerInfo(text("product") or "unknown", text("version"))
