"""Makes the broker that the settings name."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from typing import Any

import dramatiq
import dramatiq.broker
from dramatiq.middleware import Middleware

from ..config import Settings, WorkerSettings, get_settings
from ..core.encryption import KeyList
from ..core.errors import ConfigError
from ..state import find_state
from .base import RelayBroker
from .contract import BrokerOptions

_lock = Lock()
_broker: RelayBroker | None = None


def make_broker(settings: Settings) -> RelayBroker:
    """Make a broker. Connects to no server, but starts the embedded server.

    Raises:
        ConfigError: the broker's package is not installed.
        BrokerRefused, BrokerUnavailable: the embedded broker cannot start.
    """
    broker, workers = settings.broker, _workers(settings)
    keys = KeyList(lambda: settings.encryption.secret("keys"), needs="PAYLOAD_KEYS")
    options = BrokerOptions(
        max_message_bytes=broker.max_message_bytes,
        heartbeat_timeout=broker.heartbeat_timeout,
        max_crash_deliveries=broker.max_crash_deliveries,
        dead_letter_retention=broker.dead_letter_retention,
        connect_timeout=broker.connect_timeout,
        idempotency_keep=broker.idempotency_keep,
        concurrency={
            worker.queue: limit
            for worker in workers.values()
            if (limit := worker.concurrency_of(settings.worker_concurrency)) is not None
        },
        consumer_timeout=broker.rabbitmq_consumer_timeout if broker.kind == "rabbitmq" else None,
        log_exceptions=settings.logging.exceptions,
        makes_spans=settings.tracing.makes_spans,
        payload_key_ids=lambda: _payload_key_ids(keys),
    )
    try:
        made = _make(settings, options, {worker.queue: name for name, worker in workers.items()})
        made.state = find_state(broker, made.state, is_ending=lambda: made.is_stopping)
    except ImportError as error:
        raise ConfigError(
            f"BROKER={broker.kind} needs the package {error.name}, which is not installed: "
            f"pip install 'formrelay[{broker.kind}]'"
        ) from None
    return made


def _make(settings: Settings, options: BrokerOptions, workers: dict[str, str]) -> RelayBroker:
    broker = settings.broker
    match broker.kind:
        case "redis":
            from .redis.broker import RedisBroker

            return RedisBroker(
                broker.secret("redis_url") or "",
                options=options,
                namespace=broker.namespace,
                wait_replicas=broker.redis_wait_replicas,
                wait_timeout=broker.redis_wait_timeout,
            )
        case "rabbitmq":
            from .rabbitmq.broker import RabbitBroker

            return RabbitBroker(
                broker.secret("rabbitmq_url") or "",
                options=options,
                queue_type=broker.rabbitmq_queue_type,
                max_priority=broker.rabbitmq_max_priority,
                adopt=dict(broker.rabbitmq_adopt_queues),
                management_url=broker.secret("rabbitmq_api_url"),
                workers=workers,
            )
        case "embedded":
            from .embedded import ensure_running
            from .redis.broker import RedisBroker

            url = ensure_running(settings.embedded.data_dir, port=settings.embedded.port)
            return RedisBroker(url, options=options, namespace=broker.namespace)


def get_broker(*, middleware: Iterable[Middleware] = (), **options: Any) -> RelayBroker:
    """Return the broker of this process, made at the first call.

    It becomes Dramatiq's global broker, unless another broker was set before.

    Args:
        middleware: added to the broker.
        options: must be empty, since the environment configures the broker. For libraries that
            pass options to a broker's class.

    Raises:
        ConfigError, BrokerRefused, BrokerUnavailable: as :func:`make_broker`.
    """
    if options:
        raise ConfigError(
            "expected no options for formrelay's broker, which the environment configures "
            f"(REDIS_URL, RABBITMQ_URL), got {', '.join(sorted(options))}"
        )
    broker = _get_broker()
    for added in middleware:
        broker.add_middleware(added)
    return broker


def _get_broker() -> RelayBroker:
    global _broker
    with _lock:
        if _broker is None:
            _broker = make_broker(get_settings())
            # A plain @dramatiq.actor uses it as well. A broker that the host program (for example
            # django-dramatiq) has set before is kept.
            if dramatiq.broker.global_broker is None:
                dramatiq.set_broker(_broker)
        return _broker


def use_broker(broker: RelayBroker) -> None:
    """Make a broker the broker of this process and Dramatiq's global broker.

    Raises:
        ConfigError: this process has another broker, for which actors are declared.
    """
    global _broker
    with _lock:
        for other in (_broker, dramatiq.broker.global_broker):
            if other is not None and other is not broker and other.actors:
                raise ConfigError(
                    f"expected no actors before use_broker(), got {', '.join(other.actors)} on "
                    f"{type(other).__name__}: call it before the modules with actors are imported"
                )
        _broker = broker
        dramatiq.set_broker(broker)


def _payload_key_ids(keys: KeyList) -> tuple[str, ...]:
    try:
        return keys.ids
    except ConfigError:  # without the package cryptography, none can be used
        return ()


def _workers(settings: Settings) -> dict[str, WorkerSettings]:
    """Return the workers by the names in their dead-letter exchanges (``dlx.webhook``)."""
    return {
        "event": settings.events,
        "submission": settings.submissions,
        "partial": settings.partials,
        "webhook": settings.webhooks,
        "email": settings.emails,
        "sheets": settings.sheets,
    }
