"""ClickHouse: by its native protocol, by HTTP, or embedded in this process.

:func:`connect` picks the client by the URL's scheme; no connection is opened before the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from .client import ClickHouse, FailoverClickHouse, Target, parse_targets
from .errors import TableUnready
from .schema import Schema

__all__ = ["ClickHouse", "Schema", "TableUnready", "connect"]


def connect(
    url: str,
    *,
    database: str,
    user: str,
    password: Callable[[], str | None],
    timeout: timedelta,
    connect_timeout: timedelta,
) -> ClickHouse:
    """The ClickHouse at ``url``; nothing is sent before the first call.

    Args:
        url: ``clickhouse://host:9000``, ``clickhouses://`` (TLS), ``http://``,
            ``https://`` or ``chdb://folder`` (``chdb:///absolute``). A user, a
            password or a database in it wins over the arguments. Several hosts
            (``http://a:8123,b:8123/db``) are tried in turn.
        password: read for each new connection, since secrets rotate.
        timeout: of one read (native, HTTP); none when embedded.

    Raises:
        ConfigError: the address cannot be right, or its driver is not installed.
    """
    targets = parse_targets(
        url,
        database=database,
        user=user,
        password=password,
        timeout=timeout,
        connect_timeout=connect_timeout,
    )
    clients = [_client(target) for target in targets]
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
