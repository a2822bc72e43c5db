"""External systems on the overview: webhook endpoints and connections to Google accounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...actors.webhooks.resources import make_registry
from ...brokers import RelayBroker
from ...config import get_settings
from ...core.errors import ConfigError
from ...state import make_tokens
from ..output import join_names

NO_STORE = "each worker keeps this in its memory: set STATE_URL to a Redis URL to see it here"


Tone: TypeAlias = Literal["", "good", "warn", "bad"]


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
    tone: Tone
    detail: str
    route: str | None = None


def external_systems(broker: RelayBroker) -> list[ExternalSystem]:
    """Return the external systems but the sinks, from the shared store; calls none of them.

    Raises:
        BrokerError: the shared store failed.
    """
    return [_endpoints(broker), *_connections(broker)]


def _endpoints(broker: RelayBroker) -> ExternalSystem:
    name, route = "Webhook endpoints", "webhooks"
    if broker.state is None:
        return ExternalSystem(name, "not known", "", NO_STORE, route)
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
    tone: Tone = "bad" if disabled or opened else "warn"
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
