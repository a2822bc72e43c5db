"""The base class of the ClickHouse clients, the parser of URLs, and failover between hosts."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from ...config.expected import Expected
from ...config.sinks import check_clickhouse_url
from ...config.urls import one_for_each_host
from ...core.errors import ConfigError, SinkPermanent, SinkTransient, SinkUnavailable
from ...core.request_times import timed

T = TypeVar("T")

#: The oldest version that is fully supported. Older servers (Debian's 18.16 is tested) work over
#: the native protocol, with less (docs/clickhouse.md).
MODERN = (22, 3)
#: TABLE_IS_READ_ONLY: a replica has lost its ZooKeeper; the other replicas may accept rows.
_READ_ONLY = 242
_DEFAULT_PORTS = {"clickhouse": 9000, "clickhouses": 9440, "http": 8123, "https": 8443}


class ClickHouse(ABC):
    """A client of ClickHouse. Thread-safe.

    Every method raises :class:`~formrelay.core.errors.SinkUnavailable` (nothing was sent),
    ``SinkTransient``, ``SinkPermanent``, or ``ConfigError`` if the configuration has to change.

    Attributes:
        database: name of the database.
    """

    database: str

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
            data: one sequence of values per column, all of the same length; times are aware
                datetimes.
            token: deduplication token: the server drops a second block with the same token.
                Not sent to servers before :data:`MODERN`, which have no tokens.
        """
        # Some drivers notice a wrong block only when half of it is sent.
        if len(columns) != len(data) or len({len(column) for column in data}) > 1:
            raise SinkPermanent(
                "expected one column of values for each name, all of the same length"
            )
        if any(data):
            with self._timed():
                self._insert(table, columns, data, token)

    def _timed(self) -> AbstractContextManager[None]:
        """Count the insert for metrics; does nothing in a client that calls other clients."""
        return nullcontext()

    @abstractmethod
    def _insert(
        self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]], token: str | None
    ) -> None:
        """Insert a block with at least one row, in columns of the same length."""

    @abstractmethod
    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query and return its rows; ``%(name)s`` is replaced by the quoted parameter."""

    @abstractmethod
    def command(self, sql: str) -> None:
        """Run a statement without a result."""

    @abstractmethod
    def create_database(self, cluster: str | None = None) -> None:
        """Create :attr:`database` if it is missing; with ``cluster``, on each of its hosts."""

    @abstractmethod
    def version(self) -> tuple[int, ...]:
        """The server's version: ``(18, 16, 1)``."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections; the next call opens a new connection."""

    def ping(self) -> None:
        """Raise unless the server answers a query."""
        self.query("SELECT 1")


@dataclass(frozen=True, slots=True)
class Target:
    """Address and credentials of one ClickHouse host.

    Attributes:
        password: returns the password; called for each new connection, since secrets rotate.
        timeout: time-out of one read; not used when embedded.
        connect_timeout: time-out of connecting; not used when embedded.
        path: folder of an embedded ClickHouse.
    """

    database: str
    user: str
    password: Callable[[], str | None] = field(repr=False)
    timeout: timedelta
    connect_timeout: timedelta
    scheme: str = ""
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def secure(self) -> bool:
        return self.scheme in ("clickhouses", "https")


class HostClickHouse(ClickHouse):
    """A client of one host."""

    def __init__(self, target: Target) -> None:
        self.database = target.database
        self._target = target

    def _timed(self) -> AbstractContextManager[None]:
        return timed("clickhouse")

    def create_database(self, cluster: str | None = None) -> None:
        # Without a database: the server refuses a connection that names a missing one.
        client = type(self)(replace(self._target, database=""))
        try:
            client.command(create_database_sql(self.database, cluster))
        finally:
            client.close()


class FailoverClickHouse(ClickHouse):
    """A client of several hosts: a call goes to the last host that worked, then to the others.

    A call is tried on the next host only if nothing was sent or the table is read-only. Otherwise
    it raises, and the queue retries the insert with its token. A host that did not answer is
    tried last from then on, so its time-out is not waited for again at each call.

    Args:
        clients: the clients of the hosts, in the order in which they are tried.
    """

    def __init__(self, clients: Sequence[ClickHouse]) -> None:
        self.database = clients[0].database
        self._clients = tuple(clients)
        # Shared without a lock: a lost update only means that a failed host is tried once more.
        self._first = 0

    def _insert(
        self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]], token: str | None
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


def parse_targets(url: str, defaults: Target) -> list[Target]:
    """Parse a URL into one target for each host.

    Args:
        url: see :func:`.connect`.
        defaults: the values of parts that the URL does not contain.

    Raises:
        ConfigError: the URL or the database's name is malformed. The message does not quote the
            URL, which may contain a password.
    """
    try:
        url = check_clickhouse_url(url)
    except Expected as error:
        raise ConfigError(error.line("CLICKHOUSE_URL", raw="", secret=True)) from None
    is_embedded = url.lower().startswith("chdb:")
    urls = [url] if is_embedded else one_for_each_host(url)
    targets = [_target(urlsplit(one), defaults) for one in urls]
    if not re.match(r"[A-Za-z_][A-Za-z0-9_-]*\Z", targets[0].database):
        raise ConfigError(
            "expected CLICKHOUSE_DATABASE to be a name of letters, digits, '_' and '-', "
            "got something else"
        )
    return targets


def _target(parts: SplitResult, defaults: Target) -> Target:
    scheme = parts.scheme.lower()
    if scheme == "chdb":
        # chdb:///var/lib/x is absolute; in chdb://.formrelay/x the first part parses as a host.
        path = unquote(parts.netloc + parts.path)
        if not path.strip("/"):
            raise ConfigError("expected a folder after chdb:// in CLICKHOUSE_URL, got none")
        return replace(defaults, scheme=scheme, path=path)
    password = defaults.password
    if parts.password is not None:
        fixed = unquote(parts.password)
        password = lambda: fixed  # noqa: E731 - shorter than a def
    return replace(
        defaults,
        scheme=scheme,
        host=parts.hostname or "",
        port=parts.port or _DEFAULT_PORTS[scheme],
        database=unquote(parts.path.strip("/")) or defaults.database,
        user=unquote(parts.username or "") or defaults.user,
        password=password,
    )


def import_driver(package: str, *, extra: str) -> Any:
    """Import a driver.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"expected the package {package.replace('_', '-')} for this CLICKHOUSE_URL, it is not "
            f"installed: pip install 'formrelay[{extra}]'"
        ) from None


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
