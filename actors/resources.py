"""The clients of outside systems, made from the settings once per process, at first use.

Not earlier, because Dramatiq forks its workers: sockets and the embedded ClickHouse must not be
shared with a parent process.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING, Generic, TypeVar

from ..brokers import get_broker
from ..config import ApiSettings, Settings, WebhookSettings, get_settings
from ..core.errors import ConfigError
from ..core.throttle import Throttle
from ..sinks.api import Api
from ..sinks.clickhouse import ClickHouse, TableSchema, connect
from ..sinks.http import ClientCertificate
from ..state import make_tokens

if TYPE_CHECKING:
    from ..state.tokens import Tokens

T = TypeVar("T")


class per_process(Generic[T]):
    """Calls a function once per process, also when several threads call it first.

    (functools.cache would call it once for each of these threads.)
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self.__doc__ = make.__doc__
        self._make = make
        self._lock = RLock()  # a client may need another client
        #: The object, once it is made.
        self.made: list[T] = []

    def __call__(self) -> T:
        if not self.made:
            with self._lock:
                if not self.made:
                    self.made.append(self._make())
        return self.made[0]

    def forget(self) -> list[T]:
        """Forget and return the object, if there is one; the next call makes another."""
        made, self.made = self.made, []
        return made


def open_tokens(settings: Settings) -> Tokens:
    """The OAuth tokens that all workers share.

    Raises:
        ConfigError: Redis would store them without encryption: ``STATE_KEY`` is not set.
    """
    broker = get_broker()
    return make_tokens(
        broker.state, lambda: settings.broker.secret("state_key"), broker.idempotency_store()
    )


@per_process
def clickhouse() -> ClickHouse:
    """The ClickHouse of ``CLICKHOUSE_URL``.

    Raises:
        ConfigError: it is not set, or its package is not installed.
    """
    section = get_settings().clickhouse
    url = section.secret("url")
    if url is None:
        raise ConfigError(
            "expected CLICKHOUSE_URL for the queue of events, got none: set it to clickhouse://host:9000"
        )
    return connect(
        url,
        database=section.database,
        user=section.user,
        password=lambda: section.secret("password"),
        timeout=section.timeout,
        connect_timeout=section.connect_timeout,
    )


def clickhouse_schema() -> TableSchema:
    """The configured tables, ``events`` first."""
    settings = get_settings()
    tables = ("events", *(table for _, table in settings.events.tables))
    return TableSchema(
        event_tables=tuple(dict.fromkeys(tables)),
        keep_events=settings.events.keep,
        keep_attempts=settings.webhooks.keep_attempts,
        cluster=settings.clickhouse.cluster,
    )


#: Pauses the queue of events.
clickhouse_throttle = Throttle("clickhouse", title="ClickHouse")

#: Pauses the queues of submissions and of partials.
api_throttle = Throttle("api", title="the API")

#: Pauses the queue of e-mails.
smtp_throttle = Throttle("smtp", title="the SMTP server")

#: Pauses the queue of Google Sheets.
sheets_throttle = Throttle("sheets", title="Google Sheets")


@per_process
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
        certificate=client_certificate(section),
    )


def client_certificate(section: ApiSettings | WebhookSettings) -> ClientCertificate | None:
    """The client certificate of a section of the settings; None for none."""
    if section.client_cert_file is None:
        return None
    return ClientCertificate(
        section.client_cert_file,
        section.client_key_file,
        lambda: section.secret("client_key_password"),
    )
