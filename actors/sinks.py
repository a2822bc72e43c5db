"""The outside systems of this process, made at first use from the settings.

Made late on purpose: Dramatiq forks its workers, and neither sockets nor the
embedded ClickHouse live through a fork.
"""

from __future__ import annotations

from functools import cache

from ..config import get_settings
from ..core.errors import ConfigError
from ..sinks.api import Api
from ..sinks.clickhouse import ClickHouse, connect
from ..sinks.http import Egress


@cache
def clickhouse() -> ClickHouse:
    """The ClickHouse of ``CLICKHOUSE_URL``.

    Raises:
        ConfigError: it is not set, or its package is not installed.
    """
    section = get_settings().clickhouse
    url = section.secret("url")
    if url is None:
        raise ConfigError(
            "expected CLICKHOUSE_URL for the events, got none: set it to clickhouse://host:9000"
        )
    return connect(
        url,
        database=section.database,
        user=section.user,
        password=lambda: section.secret("password"),
        timeout=section.timeout,
        connect_timeout=section.connect_timeout,
    )


@cache
def api() -> Api:
    """The Django API of ``API_URL``.

    Raises:
        ConfigError: it is not set.
    """
    section = get_settings().api
    if section.url is None:
        raise ConfigError(
            "expected API_URL for the queue of submissions, got none: set it to "
            "https://your-django-site, or name the queues of this worker (formrelay worker "
            "--queue, dramatiq --queues)"
        )
    return Api(
        section.url,
        token=lambda: section.secret("token"),
        connect_timeout=section.connect_timeout,
        timeout=section.timeout,
    )


@cache
def egress() -> Egress:
    """The way out for webhooks."""
    section = get_settings().webhooks
    return Egress(
        timeout=section.timeout,
        allow_http=section.allow_http,
        allowed_private=section.allowed_private_cidrs,
    )
