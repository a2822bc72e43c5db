"""Objects that all deliveries of a process share, made from the settings at first use."""

from __future__ import annotations

import logging

from ...brokers import get_broker
from ...config import Settings, get_settings
from ...core.errors import BrokerError
from ...sinks.http import Egress
from ...state import StateRedis
from ..events import record_events
from ..resources import client_certificate, per_process
from .endpoint_state import EndpointLimits
from .limiter import EndpointLimiter
from .registry import DisableRules, EndpointRecord, EndpointRegistry, MemoryRegistry
from .registry_sync import RegistrySync

logger = logging.getLogger("formrelay.webhooks")


def max_deliveries_in_flight(settings: Settings) -> int:
    """Maximum number of deliveries in flight in a process."""
    return settings.webhooks.worker_concurrency or settings.worker_concurrency


@per_process
def registry_sync() -> RegistrySync:
    """The registry sync of this process; its ``limiter`` is the endpoint limiter."""
    settings = get_settings()
    section = settings.webhooks
    limits = EndpointLimits(
        in_flight=section.endpoint_concurrency or max(1, max_deliveries_in_flight(settings) // 4),
        failures=section.breaker_failures,
        open_for=section.breaker_wait,
    )
    rules = DisableRules(failures=section.disable_after_failures, failing_for=section.disable_after)
    return RegistrySync(
        EndpointLimiter(limits), endpoint_registry(), rules, on_disabled=_send_disabled_event
    )


def _send_disabled_event(record: EndpointRecord) -> None:
    """Send the event ``webhook.endpoint_disabled`` if deliveries are recorded."""
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
        extra = {"endpoint": record.id, "error_message": str(error)}
        logger.warning("cannot send the event webhook.endpoint_disabled", extra=extra)


def records_deliveries() -> bool:
    """Whether delivery attempts are recorded in ClickHouse."""
    settings = get_settings()
    if settings.webhooks.delivery_log is not None:
        return settings.webhooks.delivery_log
    return settings.clickhouse.url is not None


@per_process
def endpoint_registry() -> EndpointRegistry:
    """The endpoint registry: in the Redis of the shared state, or in memory."""
    return make_registry(get_broker().state)


@per_process
def egress() -> Egress:
    """The HTTP client for webhooks, which refuses private addresses."""
    settings = get_settings()
    section = settings.webhooks
    return Egress(
        timeout=section.timeout,
        allow_http=section.allow_http,
        allowed_private=section.allowed_private_cidrs,
        concurrency=max_deliveries_in_flight(settings),
        proxy=section.secret("proxy"),
        certificate=client_certificate(section),
    )


def make_registry(redis: StateRedis | None) -> EndpointRegistry:
    """Make an endpoint registry in Redis, or in memory if ``redis`` is None; does not connect."""
    if redis is None:
        return MemoryRegistry()
    from .redis_registry import RedisRegistry

    return RedisRegistry(*redis)
