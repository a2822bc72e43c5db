"""The client of ClickHouse: native protocol, HTTP, or embedded in this process.

:func:`connect` chooses it by the scheme of the URL. The first call opens a connection.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from .client import MODERN, ClickHouse, FailoverClickHouse, Target, parse_targets
from .errors import TableUnready
from .schema import TableSchema

__all__ = ["MODERN", "ClickHouse", "TableSchema", "TableUnready", "connect"]


def connect(
    url: str,
    *,
    database: str,
    user: str,
    password: Callable[[], str | None],
    timeout: timedelta,
    connect_timeout: timedelta,
) -> ClickHouse:
    """Make the client of the ClickHouse at ``url``. Connects to no server.

    Args:
        url: ``clickhouse://host:9000``, ``clickhouses://`` (TLS), ``http://``,
            ``https://`` or ``chdb://folder`` (``chdb:///absolute``). A user, password or
            database in the URL overrides the arguments. Several hosts
            (``http://a:8123,b:8123/db``) are tried in turn.
        database: name of the database.
        user: name of the user.
        password: returns the password; called for each new connection, since secrets rotate.
        timeout: time-out of one read; not used when embedded.
        connect_timeout: time-out of connecting; not used when embedded.

    Raises:
        ConfigError: the URL is malformed, or the driver is not installed.
    """
    defaults = Target(database, user, password, timeout, connect_timeout)
    clients = [_client(target) for target in parse_targets(url, defaults)]
    return clients[0] if len(clients) == 1 else FailoverClickHouse(clients)


def _client(target: Target) -> ClickHouse:
    if target.scheme == "chdb":
        from .embedded import EmbeddedClickHouse

        return EmbeddedClickHouse(target)
    if target.scheme in ("http", "https"):
        from .connect_client import HttpClickHouse

        return HttpClickHouse(target)
    from .native import NativeClickHouse

    return NativeClickHouse(target)
