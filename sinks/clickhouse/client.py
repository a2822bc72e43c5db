"""What every way to ClickHouse offers, and the address it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from ...config.urls import one_for_each_host
from ...core.errors import ConfigError
from ...core.hosts import InvalidHost, ascii_url

_DEFAULT_PORTS = {"clickhouse": 9000, "clickhouses": 9440, "http": 8123, "https": 8443}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


class ClickHouse(Protocol):
    """A ClickHouse, whichever way it is reached. Safe to share between threads.

    Every method raises :class:`~formrelay.core.errors.SinkUnavailable` (nothing
    was sent), ``SinkTransient`` or ``SinkPermanent``, and ``ConfigError`` for
    what only a change of the configuration can mend.
    """

    @property
    def database(self) -> str:
        """The database that unqualified names are looked up in."""

    @property
    def supports_dedup_token(self) -> bool:
        """Whether the server knows ``insert_deduplication_token`` (asked once)."""

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
                under it are dropped by the server. Left out where the server
                does not know of it.
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
        """Let go of every connection; the next call opens one again."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a ClickHouse is and how to be let in."""

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
    """The targets that ``url`` names, one a host; user, password and database in it win.

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


def create_database(database: str, cluster: str | None) -> str:
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
