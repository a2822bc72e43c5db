"""Reads the facts, all at once and within a time limit. Nothing is sent but greetings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ...actors.webhooks.resources import make_registry
from ...brokers import NotAvailable, QueueCounts, RelayBroker, State
from ...config import Settings
from ...core.errors import BrokerError, ConfigError, FormrelayError, describe
from ...sinks.clickhouse import ClickHouse, connect
from ...state import make_tokens
from ...state.alert_store import OutboxEntry
from ...state.history import total
from ..reachability import (
    connect_to,
    connect_to_api,
    greet_smtp,
    is_embedded_clickhouse,
    problem_of,
)
from .bounded import BoundedCalls, Late
from .facts import Facts, QueueFacts, Rate

#: Maximum number of queues whose first scheduled job is looked at.
_MAX_SCHEDULED = 200


class Collector:
    """Reads the facts of an installation.

    Args:
        limit: seconds for one look.
    """

    def __init__(self, broker: RelayBroker, settings: Settings, *, limit: float) -> None:
        self._broker = broker
        self._settings = settings
        self._limit = limit
        self._calls = BoundedCalls()
        self._clickhouse: ClickHouse | None = None

    def collect(self, clocks: Mapping[str, float], receivers: Mapping[str, float]) -> Facts:
        """Look once.

        Args:
            clocks: by monitor, how many seconds its clock is ahead of the store's.
            receivers: by name, how many seconds a receiver has not taken alerts.
        """
        calls: dict[str, Callable[[], Any]] = {
            "broker": lambda: self._broker.ping(()),
            "queues": self._queues,
        }
        if self._broker.state is not None:
            calls |= {
                "history": self._rates,
                "workers": lambda: self._broker.worker_reports().read(),
                "endpoints": lambda: make_registry(self._broker.state).all(),
                "connections": self._paused_connections,
            }
        sinks = {f"sink {name}": probe for name, probe in self._sinks().items()}
        found = self._calls.run({**calls, **sinks}, self._limit)
        known = {
            name: None if isinstance(result, Exception) else result
            for name, result in found.items()
        }
        broker = _broker_problem(found["broker"])
        return Facts(
            broker=broker,
            broker_kind=self._settings.broker.kind,
            queues=known["queues"],
            rates=known.get("history"),
            workers=known.get("workers"),
            sinks={name.removeprefix("sink "): _problem(found[name]) for name in sinks},
            endpoints=known.get("endpoints"),
            connections=known.get("connections"),
            clocks=_by_host(clocks),
            receivers=receivers,
            problems={
                name: _problem(result)
                for name, result in found.items()
                if name in calls and not broker and isinstance(result, Exception)
            },
        )

    # -- the broker ------------------------------------------------------------------------

    def _queues(self) -> list[QueueFacts]:
        inspector = self._broker.inspector
        counts = inspector.counts_of(inspector.queues())
        try:
            consumed = inspector.consumed({each.queue for each in counts})
        except NotAvailable:
            consumed = None
        late = self._late(counts)
        return [
            QueueFacts(
                each.queue,
                each.waiting,
                each.scheduled,
                each.dead,
                bool(each.paused),
                None if each.oldest_age is None else each.oldest_age.total_seconds(),
                None if consumed is None else each.queue in consumed,
                late.get(each.queue),
            )
            for each in counts
        ]

    def _late(self, counts: Sequence[QueueCounts]) -> dict[str, float]:
        """By queue, for how long its first scheduled job has been due; only Redis knows."""
        scheduled = [each.queue for each in counts if each.scheduled]
        late = {}
        for queue in scheduled[:_MAX_SCHEDULED]:
            try:
                page = self._broker.inspector.browse(queue, State.SCHEDULED, limit=1)
            except NotAvailable:
                break
            due = [entry.due for entry in page.entries if entry.due is not None]
            late[queue] = max([0.0, *(self._broker.clock.time() - each for each in due)])
        return late

    # -- the store -------------------------------------------------------------------------

    def _rates(self) -> dict[str, Rate]:
        found = self._broker.history().read(span=self._settings.alerts.window)
        sums = {queue: total(points) for queue, points in found.items()}
        return {
            queue: Rate(each.attempts, each.retried + each.dead, each.dead)
            for queue, each in sums.items()
        }

    def _paused_connections(self) -> dict[str, str]:
        broker = self._broker
        try:
            tokens = make_tokens(
                broker.state,
                lambda: self._settings.broker.secret("state_key"),
                broker.idempotency_store(),
            )
        except ConfigError:  # without STATE_KEY there are none
            return {}
        return {each.id: str(each.cause) for each in tokens.connections() if each.is_paused}

    # -- the sinks -------------------------------------------------------------------------

    def _sinks(self) -> dict[str, Callable[[], object]]:
        settings = self._settings
        probes: dict[str, Callable[[], object]] = {}
        url = settings.clickhouse.secret("url")
        if url is not None and not is_embedded_clickhouse(url):
            probes["clickhouse"] = self._ping_clickhouse
        if settings.api.url is not None:
            probes["api"] = partial(connect_to_api, settings)
        if settings.smtp.url is not None:
            probes["smtp"] = partial(greet_smtp, settings)
        if settings.sheets.is_configured:
            probes["google"] = partial(connect_to, settings.sheets.api_url)
        return probes

    def _ping_clickhouse(self) -> None:
        """Connect as actors do, but with a client of its own, which only one thread uses."""
        section = self._settings.clickhouse
        if self._clickhouse is None:
            self._clickhouse = connect(
                section.secret("url") or "",
                database=section.database,
                user=section.user,
                password=lambda: section.secret("password"),
                timeout=section.timeout,
                connect_timeout=section.connect_timeout,
            )
        self._clickhouse.ping()


def unreceived(outbox: Sequence[OutboxEntry], now: float) -> dict[str, float]:
    """By receiver, for how many seconds it has not taken an alert that was tried."""
    oldest: dict[str, float] = {}
    for entry in outbox:
        if entry.attempts:
            oldest[entry.receiver] = min(entry.at, oldest.get(entry.receiver, entry.at))
    return {name: max(0.0, now - at) for name, at in oldest.items()}


def _broker_problem(result: Any) -> str:
    """Why the broker cannot be used; empty if it can."""
    if isinstance(result, BrokerError):
        return str(result)
    return f"the broker: {_problem(result)}" if isinstance(result, Exception) else ""


def _problem(result: Any) -> str:
    if not isinstance(result, Exception):
        return ""
    if isinstance(result, Late):
        return str(result)
    return problem_of(result) if not isinstance(result, FormrelayError) else describe(result)


def _by_host(clocks: Mapping[str, float]) -> dict[str, float]:
    """By host, the difference of the clock of the monitor that differs least.

    A call that waited on its way makes a clock look slow, and several monitors run on one host.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for monitor, ahead in clocks.items():
        found[monitor.partition(":")[0]].append(ahead)
    return {host: min(each, key=abs) for host, each in found.items()}
