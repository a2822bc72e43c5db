"""The outside systems of this process, made at first use from the settings.

Made late on purpose: Dramatiq forks its workers, and neither sockets nor the
embedded ClickHouse live through a fork.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import RLock
from typing import Generic, TypeVar

from ..brokers import get_broker
from ..config import get_settings
from ..core.errors import BrokerError, ConfigError
from ..core.throttle import Throttle
from ..endpoints import Book, EndpointRecord, Gate, Limits, Records, Rules, make_records
from ..sinks.api import Api
from ..sinks.clickhouse import ClickHouse, Schema, connect
from ..sinks.http import Egress

T = TypeVar("T")

logger = logging.getLogger("formrelay.webhooks")


class once(Generic[T]):
    """Calls a function once, also where many threads call it first at one time.

    functools.cache would then make one for each, and two gates let twice as many through.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self.__doc__ = make.__doc__
        self._make = make
        self._lock = RLock()  # one may need another
        #: What was made, if it was.
        self.made: list[T] = []

    def __call__(self) -> T:
        if not self.made:
            with self._lock:
                if not self.made:
                    self.made.append(self._make())
        return self.made[0]

    def forget(self) -> list[T]:
        """Make a new one at the next call; returns the old one, if there is one."""
        made, self.made = self.made, []
        return made


@once
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


def clickhouse_schema() -> Schema:
    """The tables that the configuration asks for, ``events`` first."""
    settings = get_settings()
    tables = ("events", *(table for _, table in settings.events.tables))
    return Schema(
        event_tables=tuple(dict.fromkeys(tables)),
        keep_events=settings.events.keep,
        keep_attempts=settings.webhooks.keep_attempts,
        cluster=settings.clickhouse.cluster,
    )


#: How ClickHouse fares, for the queue of events.
clickhouse_throttle = Throttle("clickhouse")


#: How the API fares, for the queues of submissions and of partials.
api_throttle = Throttle("api")


@once
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


def deliveries_at_a_time() -> int:
    """How many webhooks a process delivers at a time."""
    settings = get_settings()
    return settings.webhooks.worker_concurrency or settings.worker_concurrency


@once
def endpoint_book() -> Book:
    """What is known of the endpoints of webhooks."""
    settings = get_settings()
    section = settings.webhooks
    limits = Limits(
        in_flight=section.endpoint_concurrency or max(1, deliveries_at_a_time() // 4),
        failures=section.breaker_failures,
        opens_for=section.breaker_wait,
    )
    rules = Rules(failures=section.disable_after_failures, failing_for=section.disable_after)
    return Book(Gate(limits), endpoint_records(), rules, announce=_record_disabled)


def _record_disabled(record: EndpointRecord) -> None:
    """An event says that an endpoint was disabled."""
    from .events import record_events  # which needs this module

    if not records_deliveries():
        return
    event = {
        "type": "webhook.endpoint_disabled",
        "formId": record.form_id or "unknown",
        "properties": {"endpoint": record.id, "host": record.host, "why": record.why},
    }
    try:
        record_events.send(payload=event)
    except BrokerError as error:
        logger.warning("an event was not sent", extra={"why": str(error), "endpoint": record.id})


def records_deliveries() -> bool:
    """Whether what becomes of webhooks is recorded in ClickHouse."""
    settings = get_settings()
    if settings.webhooks.delivery_log is not None:
        return settings.webhooks.delivery_log
    return settings.clickhouse.url is not None


@once
def endpoint_records() -> Records:
    """Where endpoints are remembered (see :func:`~formrelay.endpoints.make_records`)."""
    return make_records(get_settings().broker, get_broker())


@once
def egress() -> Egress:
    """The way out for webhooks."""
    section = get_settings().webhooks
    return Egress(
        timeout=section.timeout,
        allow_http=section.allow_http,
        allowed_private=section.allowed_private_cidrs,
        limit=deliveries_at_a_time(),
        proxy=section.secret("proxy"),
    )
