"""The interface of the ClickHouse clients, the parser of URLs, and failover between hosts."""

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

#: The oldest version that is fully supported. Older servers (Debian's 18.16 is tested) work over
#: the native protocol, with less (docs/clickhouse.md).
MODERN = (22, 3)
#: TABLE_IS_READ_ONLY: a replica has lost its ZooKeeper; the other replicas may accept rows.
_READ_ONLY = 242
_DEFAULT_PORTS = {"clickhouse": 9000, "clickhouses": 9440, "http": 8123, "https": 8443}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


class ClickHouse(Protocol):
    """A client of ClickHouse. Thread-safe.

    Every method raises :class:`~formrelay.core.errors.SinkUnavailable` (nothing was sent),
    ``SinkTransient``, ``SinkPermanent``, or ``ConfigError`` if the configuration has to change.
    """

    @property
    def database(self) -> str:
        """The name of the database."""

    @property
    def supports_dedup_token(self) -> bool:
        """Whether the server supports ``insert_deduplication_token`` (version 22.3 or newer)."""

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
            table: name of the table.
            columns: names of the columns, in the order of ``data``.
            data: one sequence of values a column, all of the same length; times are aware
                datetimes.
            token: deduplication token: the server drops a second block with the same token.
                Not sent to servers that do not support it.
        """

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query and return its rows; ``%(name)s`` is replaced by the quoted parameter."""

    def command(self, sql: str) -> None:
        """Run a statement without a result."""

    def create_database(self, cluster: str | None = None) -> None:
        """Create :attr:`database` if it is missing; with ``cluster``, on each of its hosts."""

    def version(self) -> tuple[int, ...]:
        """The server's version: ``(18, 16, 1)``."""

    def ping(self) -> None:
        """Raise unless the server answers a query."""

    def close(self) -> None:
        """Close all connections; the next call opens a new connection."""


class FailoverClickHouse:
    """A client of several hosts: a call goes to the last host that worked, then to the others.

    A call is tried on the next host only if nothing was sent or the table is read-only. Otherwise
    it raises, and the queue retries the insert with its token. A host that did not answer is
    tried last from then on, so its time-out is not waited for again at each call.

    Args:
        clients: the clients of the hosts, in the order in which they are tried.
    """

    def __init__(self, clients: Sequence[ClickHouse]) -> None:
        self._clients = tuple(clients)
        # Shared without a lock: a lost update only means that a failed host is tried once more.
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
    """Address and credentials of one ClickHouse host."""

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
    """Parse a URL into one target for each host. For the arguments, see :func:`.connect`.

    Raises:
        ConfigError: the URL or the database's name is malformed. The message does not quote the
            URL, which may contain a password.
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
    except ValueError:  # an unmatched bracket
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
            password = lambda: fixed  # noqa: E731 - shorter than a def
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
    """Quote a name in backticks."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def token_settings(token: str | None) -> dict[str, Any]:
    """The settings of an insert with a deduplication token.

    The second setting matters when an insert failed between a table and its roll-up: the retry
    then reaches the roll-up, although the table drops the block.
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
    """Parse ``18.16.1`` or ``25.3.2.39 (official build)`` into numbers."""
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
