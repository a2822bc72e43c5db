"""The systems outside, on the overview: sinks, circuit breakers, connections to Google accounts."""

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
class OutsideRow:
    """A system outside.

    Attributes:
        state: a word for its state.
        tone: how good the state is.
        says: address, or what is wrong.
        route: the route of the page with more; None: there is none.
    """

    name: str
    state: str
    tone: Literal["", "good", "warn", "bad"]
    says: str
    route: str | None = None


def outside(broker: RelayBroker) -> list[OutsideRow]:
    """Return the systems outside, as far as they are known without asking them.

    Raises:
        BrokerError: the shared store failed.
    """
    return [*_sinks(), _endpoints(broker), *_connections(broker)]


def _sinks() -> list[OutsideRow]:
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
        OutsideRow(name, "not set", "", f"set {variable} for its jobs")
        if url is None
        else OutsideRow(name, "configured", "good", mask(url))
        for name, (url, variable) in urls.items()
    ]
    return [*rows, _sheets(settings)]


def _sheets(settings: Settings) -> OutsideRow:
    if settings.sheets.is_configured:
        return OutsideRow("Google Sheets", "configured", "good", "")
    return OutsideRow("Google Sheets", "not set", "", "no Google account is configured")


def _endpoints(broker: RelayBroker) -> OutsideRow:
    name, route = "Webhook endpoints", "webhooks"
    if broker.state is None:
        return OutsideRow(name, "not known", "", _NO_STORE, route)
    now = broker.clock.time()
    records = make_registry(broker.state).all()
    disabled = sum(each.disabled_at is not None for each in records)
    opened = sum(
        each.disabled_at is None and each.open_until is not None and each.open_until > now
        for each in records
    )
    if not records:
        return OutsideRow(name, "fine", "good", "no endpoint fails", route)
    failing = len(records) - disabled - opened
    counts = {"disabled": disabled, "with an open breaker": opened, "failing": failing}
    says = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    tone: Literal["warn", "bad"] = "bad" if disabled or opened else "warn"
    return OutsideRow(name, "failing", tone, says, route)


def _connections(broker: RelayBroker) -> list[OutsideRow]:
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
        return [OutsideRow("Google connections", "fine", "good", f"{len(found):,} connections")]
    names = join_names(paused, 3)
    return [OutsideRow("Google connections", f"{len(paused):,} paused", "bad", names, "sheets")]


def _state_key() -> str | None:
    try:
        return get_settings().broker.secret("state_key")
    except ConfigError:
        return None
