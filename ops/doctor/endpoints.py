"""The check of webhook endpoints in ``formrelay doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...actors.webhooks.registry import MemoryRegistry
from ...actors.webhooks.resources import make_registry
from ...brokers import get_broker
from ...core.clock import SYSTEM_CLOCK, iso
from ...core.printable import shown_id
from ..endpoints import endpoint_json
from ..output import age
from .finding import Finding

#: Failures in a row from which an endpoint is named; a single failure is part of normal operation.
_MIN_FAILURES = 5
#: Maximum number of endpoints that are named.
_MAX_NAMED = 5


def check_endpoints() -> Iterator[Finding]:
    """Name the webhook endpoints that fail, and count those that are disabled."""
    registry = make_registry(get_broker().state)
    if isinstance(registry, MemoryRegistry):
        says = "processes do not share endpoints and idempotency keys: set STATE_URL to a Redis URL"
        yield Finding("endpoints", "weak", says)
        return
    now = SYSTEM_CLOCK.time()
    found = [endpoint_json(record.to_json(), now) for record in registry.all()]
    disabled = [each for each in found if each["state"] == "disabled"]
    failing = [
        each
        for each in found
        if each["state"] == "open"
        or (each["state"] == "failing" and each["failures"] >= _MIN_FAILURES)
    ]
    failing.sort(key=lambda each: -each["failures"])
    todo = "run formrelay webhooks endpoints"
    for each in failing[:_MAX_NAMED]:
        yield Finding("endpoints", "weak", f"{_described(each, now)}; {todo} for its URL")
    if len(failing) > _MAX_NAMED:
        says = f"{len(failing) - _MAX_NAMED} more are failing"
        yield Finding("endpoints", "weak", f"{says}; {todo}")
    if disabled:
        says = f"{len(disabled)} are disabled, and their webhooks are dead-lettered"
        yield Finding("endpoints", "weak", f"{says}; {todo}, then webhooks endpoints enable ID")
    if not failing and not disabled:
        yield Finding("endpoints", "ok", "none keeps failing, and none is disabled")


def _described(each: dict[str, Any], now: float) -> str:
    since = each["failing_since"]
    says = f"{shown_id(each['id'])} ({each['host']}) failed {each['failures']} times in a row"
    says += "" if since is None else f" for {age(now - since)}"
    status = each["last_status"]
    says += f", last with {'no response' if status is None else f'status {status}'}"
    if each["state"] == "open":
        says += f"; its circuit breaker is open until {iso(each['open_until'])}"
    return says
