"""External systems on the overview: sinks, webhook endpoints, connections to Google accounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...actors.webhooks.resources import make_registry
from ...brokers import RelayBroker
from ...config import Settings, get_settings
from ...config.urls import mask
from ...core.errors import ConfigError
from ...state import make_tokens
from ..output import join_names

_NO_STORE = "each worker keeps this in its memory: set STATE_URL to a Redis URL to see it here"


@dataclass(frozen=True, slots=True)
class ExternalSystem:
    """An external system.

    Attributes:
        state: its state, in a word or two.
        tone: colour of the state; "" for neither good nor bad.
        detail: its address, or what is wrong.
        route: name of the route of its page; None if it has no page.
    """

    name: str
    state: str
    tone: Literal["", "good", "warn", "bad"]
    detail: str
    route: str | None = None


def external_systems(broker: RelayBroker) -> list[ExternalSystem]:
    """Return the external systems, from the settings and the shared store; calls none of them.

    Raises:
        BrokerError: the shared store failed.
    """
    return [*_sinks(), _endpoints(broker), *_connections(broker)]


def _sinks() -> list[ExternalSystem]:
    try:
        settings = get_settings()
    except ConfigError:  # a broker that is made in code needs none
        return []
    urls = {
        "API": (settings.api.url, "API_URL"),
        "ClickHouse": (settings.clickhouse.secret("url"), "CLICKHOUSE_URL"),
        "SMTP": (settings.smtp.secret("url"), "SMTP_URL"),
    }
    rows = [
        ExternalSystem(name, "not set", "", f"set {variable} for its jobs")
        if url is None
        else ExternalSystem(name, "configured", "good", mask(url))
        for name, (url, variable) in urls.items()
    ]
    return [*rows, _sheets(settings)]


def _sheets(settings: Settings) -> ExternalSystem:
    if settings.sheets.is_configured:
        return ExternalSystem("Google Sheets", "configured", "good", "")
    return ExternalSystem("Google Sheets", "not set", "", "no Google account is configured")


def _endpoints(broker: RelayBroker) -> ExternalSystem:
    name, route = "Webhook endpoints", "webhooks"
    if broker.state is None:
        return ExternalSystem(name, "not known", "", _NO_STORE, route)
    now = broker.clock.time()
    records = make_registry(broker.state).all()
    disabled = sum(each.disabled_at is not None for each in records)
    opened = sum(
        each.disabled_at is None and each.open_until is not None and each.open_until > now
        for each in records
    )
    if not records:
        return ExternalSystem(name, "fine", "good", "no endpoint fails", route)
    failing = len(records) - disabled - opened
    counts = {"disabled": disabled, "with an open breaker": opened, "failing": failing}
    detail = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    tone: Literal["warn", "bad"] = "bad" if disabled or opened else "warn"
    return ExternalSystem(name, "failing", tone, detail, route)


def _connections(broker: RelayBroker) -> list[ExternalSystem]:
    """The connections to Google accounts; nothing if there are none."""
    if broker.state is None:
        return []
    try:
        tokens = make_tokens(broker.state, _state_key, broker.idempotency_store())
    except ConfigError:  # without STATE_KEY there are none
        return []
    found = tokens.connections()
    if not found:
        return []
    paused = [each.id for each in found if each.is_paused]
    if not paused:
        return [ExternalSystem("Google connections", "fine", "good", f"{len(found):,} connections")]
    names = join_names(paused, 3)
    return [ExternalSystem("Google connections", f"{len(paused):,} paused", "bad", names, "sheets")]


def _state_key() -> str | None:
    try:
        return get_settings().broker.secret("state_key")
    except ConfigError:
        return None
