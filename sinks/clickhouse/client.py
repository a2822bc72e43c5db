"""What every ClickHouse client offers, its address, and failover between several hosts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from ...config.urls import one_for_each_host
from ...core.errors import ConfigError, SinkTransient, SinkUnavailable
from ...core.hosts import InvalidHost, ascii_url

T = TypeVar("T")

#: The oldest version that is promised to work. An older server, of which Debian's 18.16 is tested,
#: is spoken to by the native protocol alone, and without what 18.16 lacks (docs/clickhouse.md).
MODERN = (22, 3)
#: A replica that lost its ZooKeeper takes no rows (TABLE_IS_READ_ONLY); the others may.
_READ_ONLY = 242
_DEFAULT_PORTS = {"clickhouse": 9000, "clickhouses": 9440, "http": 8123, "https": 8443}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


class ClickHouse(Protocol):
    """A ClickHouse, by whichever protocol. Safe to share between threads.

    Every method raises :class:`~formrelay.core.errors.SinkUnavailable` (nothing
    was sent), ``SinkTransient`` or ``SinkPermanent``, and ``ConfigError`` for
    what only a change of the configuration can mend.
    """

    @property
    def database(self) -> str:
        """The database that unqualified names are looked up in."""

    @property
    def supports_dedup_token(self) -> bool:
        """Whether the server knows ``insert_deduplication_token``: one of version 22.3 or newer."""

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        data: Sequence[Sequence[Any]],
        *,
        token: str | None = None,
    ) -> None:
        """Insert one block.

        Args:
            columns: names, in the order of ``data``.
            data: column-oriented, one sequence of equal length a column;
                times are aware datetimes.
            token: the block's deduplication token: the same rows sent again
                under it are dropped by the server. Not sent to a server that
                does not support it.
        """

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query; ``%(name)s`` in ``sql`` is filled from ``params``, quoted."""

    def command(self, sql: str) -> None:
        """Run a statement without a result."""

    def create_database(self, cluster: str | None = None) -> None:
        """Create :attr:`database` if it is missing; with ``cluster``, on each of its hosts."""

    def version(self) -> tuple[int, ...]:
        """The server's version: ``(18, 16, 1)``."""

    def ping(self) -> None:
        """Return if the server answers a query; raise otherwise."""

    def close(self) -> None:
        """Close every connection; the next call opens one again."""


class FailoverClickHouse:
    """Several hosts: calls go to the host that worked last, or to the next one if it took nothing.

    Nothing is sent twice: a call that broke off after something was sent raises, and the queue
    retries it under its token. A host that did not answer is not asked first again, so a host
    that hangs costs its time-out once and not on every call.

    Args:
        clients: one for each host, in the order in which they are tried.
    """

    def __init__(self, clients: Sequence[ClickHouse]) -> None:
        self._clients = tuple(clients)
        # Shared between threads without a lock: each only ever moves away from a host that failed.
        self._first = 0

    @property
    def database(self) -> str:
        return self._clients[0].database

    @property
    def supports_dedup_token(self) -> bool:
        return self._call(lambda client: client.supports_dedup_token)

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        data: Sequence[Sequence[Any]],
        *,
        token: str | None = None,
    ) -> None:
        self._call(lambda client: client.insert(table, columns, data, token=token))

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self._call(lambda client: client.query(sql, params))

    def command(self, sql: str) -> None:
        self._call(lambda client: client.command(sql))

    def create_database(self, cluster: str | None = None) -> None:
        self._call(lambda client: client.create_database(cluster))

    def version(self) -> tuple[int, ...]:
        return self._call(lambda client: client.version())

    def ping(self) -> None:
        self._call(lambda client: client.ping())

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _call(self, work: Callable[[ClickHouse], T]) -> T:
        first, count = self._first, len(self._clients)
        for number in ((first + step) % count for step in range(count)):
            try:
                result = work(self._clients[number])
            except SinkTransient as error:
                last = error
                if isinstance(error, SinkUnavailable) or error.code == _READ_ONLY:
                    continue
                if error.code is None:  # a time-out, a lost connection
                    self._first = (number + 1) % count
                raise
            if number != first:
                self._first = number
            return result
        raise last


@dataclass(frozen=True, slots=True)
class Target:
    """Address and credentials of a ClickHouse."""

    scheme: str
    host: str
    port: int
    path: str
    database: str
    user: str
    password: Callable[[], str | None] = field(repr=False)
    timeout: timedelta
    connect_timeout: timedelta

    @property
    def secure(self) -> bool:
        return self.scheme in ("clickhouses", "https")


def parse_targets(
    url: str,
    *,
    database: str,
    user: str,
    password: Callable[[], str | None],
    timeout: timedelta,
    connect_timeout: timedelta,
) -> list[Target]:
    """The targets that ``url`` names, one for each host; its user, password and database win.

    Raises:
        ConfigError: the address or the database's name cannot be right. The
            message never quotes the address, which may hold a password.
    """
    urls = [url]
    if "://" in url and not url.lower().startswith("chdb:"):
        try:
            urls = one_for_each_host(ascii_url(url))
        except InvalidHost:
            raise ConfigError("expected valid host names in CLICKHOUSE_URL") from None
    return [_target(one, database, user, password, timeout, connect_timeout) for one in urls]


def _target(
    url: str,
    database: str,
    user: str,
    password: Callable[[], str | None],
    timeout: timedelta,
    connect_timeout: timedelta,
) -> Target:
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket without its other one
        raise ConfigError("expected an IPv6 address in [brackets] in CLICKHOUSE_URL") from None
    scheme = parts.scheme.lower()
    if scheme == "chdb":
        host, port, path = "", 0, _embedded_path(parts)
    elif scheme in _DEFAULT_PORTS:
        host, port, path = parts.hostname or "", _port(parts), ""
        if not host:
            raise ConfigError("expected a host in CLICKHOUSE_URL (host:port), got none")
        database = unquote(parts.path.strip("/")) or database
        user = unquote(parts.username or "") or user
        if parts.password is not None:
            fixed = unquote(parts.password)
            password = lambda: fixed  # noqa: E731  (a def would hide that it is one value)
    else:
        raise ConfigError(
            "expected CLICKHOUSE_URL to start with clickhouse://, clickhouses://, http://, "
            f"https:// or chdb://, got {scheme or 'no scheme'}"
        )
    if not _NAME.match(database):
        raise ConfigError(
            "expected CLICKHOUSE_DATABASE to be a name of letters, digits, '_' and '-', "
            "got something else"
        )
    return Target(scheme, host, port, path, database, user, password, timeout, connect_timeout)


def identifier(name: str) -> str:
    """A name in backticks, with everything in it that could end them escaped."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def token_settings(token: str | None) -> dict[str, Any]:
    """The settings of an insert under a deduplication token.

    With the second one, rows that reached their table and, since something broke, not its roll-up
    reach that when they are sent again; without it nothing of a block that is known would.
    """
    return {
        "insert_deduplication_token": token,
        "deduplicate_blocks_in_dependent_materialized_views": 1,
    }


def create_database_sql(database: str, cluster: str | None) -> str:
    """The statement that creates a database."""
    on_cluster = f" ON CLUSTER {identifier(cluster)}" if cluster else ""
    return f"CREATE DATABASE IF NOT EXISTS {identifier(database)}{on_cluster}"


def parse_version(text: str) -> tuple[int, ...]:
    """``18.16.1`` or ``25.3.2.39 (official build)`` as numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", text.partition(" ")[0]))


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or _DEFAULT_PORTS[parts.scheme.lower()]
    except ValueError:
        raise ConfigError("expected a port from 1 to 65535 in CLICKHOUSE_URL") from None


def _embedded_path(parts: SplitResult) -> str:
    # chdb:///var/lib/x is absolute; in chdb://.formrelay/x the first part parses as a host.
    path = unquote(parts.netloc + parts.path)
    if not path.strip("/"):
        raise ConfigError("expected a folder after chdb:// in CLICKHOUSE_URL, got none")
    return path
