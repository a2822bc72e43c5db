"""Where RabbitMQ is: the URL with its hosts, its password and its TLS, read once."""

from __future__ import annotations

import re
import socket
import ssl
from datetime import timedelta
from urllib.parse import parse_qsl, quote, unquote, urlencode

import pika

from ...core.errors import ConfigError
from ...core.failure import worker_name

#: How our connections are told from others on the server.
PRODUCT = "formrelay"
#: Of a URL's query, what is ours; the rest is pika's.
_TLS_OPTIONS = ("cafile", "certfile", "keyfile")


def servers(url: str, *, timeout: timedelta) -> list[pika.URLParameters]:
    """The servers of a URL, any of which will do.

    Several stand in one URL separated by commas
    (``amqp://user:password@one,two:5673/vhost``), or as several URLs separated
    by semicolons. User and password may hold any character, as they are or in
    percent-encoding. ``amqps://`` checks the server's certificate and its name;
    ``?cafile=…`` names an own authority, ``certfile`` and ``keyfile`` a
    certificate to show. Any other option of the query is read by pika.

    Args:
        timeout: to connect, and for an answer.

    Raises:
        ConfigError: the URL cannot be read. The text quotes nothing of it.
    """
    found: list[pika.URLParameters] = []
    for one in re.split(r";(?=amqps?://)", url.strip().rstrip(";")):
        scheme, _, rest = one.partition("://")
        if scheme not in ("amqp", "amqps") or not rest:
            raise ConfigError("expected a URL like amqp://user:password@host:5672/vhost")
        # The last @, since the ones before it belong to the password.
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


def address(found: pika.URLParameters) -> str:
    """Where it leads, without the password."""
    return f"{found.host}:{found.port}"


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
    """The certificate is checked, and that it is the server's by name: pika's default too."""
    try:
        context = ssl.create_default_context(cafile=tls.get("cafile"))
        if "certfile" in tls:
            context.load_cert_chain(tls["certfile"], tls.get("keyfile"))
    except OSError as error:
        named = ", ".join(tls.values())
        raise ConfigError(
            f"expected {named} to be certificates in PEM, got: {error.strerror or error}"
        ) from None
    return context


def dial(server: pika.URLParameters) -> socket.socket:
    """A TCP connection to a server, with TLS where its URL asks for it.

    Raises:
        OSError: also where its certificate cannot be trusted.
    """
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


def client_properties() -> dict[str, object]:
    """Who we are, for ``rabbitmqctl list_connections`` and the management pages."""
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
