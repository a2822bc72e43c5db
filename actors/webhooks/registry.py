"""The endpoint registry: failures of each endpoint in all processes, and disabled endpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from threading import Lock
from typing import Any, Protocol, TypeAlias

import orjson


@dataclass(frozen=True, slots=True)
class DisableRules:
    """When a failing endpoint is disabled: as soon as one of the limits is reached.

    Attributes:
        failures: number of failures in a row.
        failing_for: time between the first and the last failure in a row.
    """

    failures: int = 100
    failing_for: timedelta = timedelta(days=5)


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """The record of one endpoint.

    Attributes:
        host: host of its URL; the rest of the URL may contain secrets and is not stored.
        failures: number of failures in a row.
        failing_since: time of the first failure in a row, in unix seconds.
        last_status: HTTP status of the last delivery; None without a response.
        last_at: end of the last delivery, in unix seconds.
        disabled_at: unix seconds; None if the endpoint is not disabled.
        why: why the endpoint is disabled; None if it is not.
        form_id: form of the last delivery with a form; empty if there is none.
        open_until: when the circuit breaker that a worker opened last lets a probe through, in
            unix seconds; None if none has opened since the last success.
    """

    id: str
    host: str
    failures: int = 0
    failing_since: float | None = None
    last_status: int | None = None
    last_at: float | None = None
    disabled_at: float | None = None
    why: str | None = None
    form_id: str = ""
    open_until: float | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether the endpoint is neither failing nor disabled; then no record is stored."""
        return not self.failures and self.disabled_at is None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, id: str, raw: bytes) -> EndpointRecord:
        """Decode the record of an endpoint that this or another version of formrelay wrote.

        Unknown fields are ignored, and missing or malformed fields get their defaults: one
        malformed record must not make the registry unreadable.
        """
        try:
            data = orjson.loads(raw)
        except orjson.JSONDecodeError:
            data = None
        if not isinstance(data, dict):
            data = {}
        known = {
            name: data[name] for name, type in _TYPES.items() if isinstance(data.get(name), type)
        }
        return cls(id, **{"host": "", **known})


#: Types of the fields of a stored record; the id is the key.
_TYPES: dict[str, Any] = {
    "host": str,
    "failures": int,
    "failing_since": int | float,
    "last_status": int,
    "last_at": int | float,
    "disabled_at": int | float,
    "why": str,
    "form_id": str,
    "open_until": int | float,
}

#: The last change that a process has read. Each registry has a format of its own.
Position: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of the set of disabled endpoints, or the whole set.

    Attributes:
        since: position before the changes; None if ``disabled`` is the whole set.
        position: position of the last change.
        disabled: ids of newly disabled endpoints, or of all disabled endpoints.
        enabled: ids of endpoints that are no longer disabled.
        count: number of disabled endpoints after these changes.
    """

    since: Position | None
    position: Position
    disabled: Collection[str]
    enabled: Collection[str]
    count: int

    @property
    def is_whole(self) -> bool:
        """Whether ``disabled`` is the whole set, not a change of it."""
        return self.since is None


@dataclass(slots=True)
class DeliveryReport:
    """The deliveries of one process to an endpoint since its last report.

    Attributes:
        has_success: whether a delivery succeeded.
        failures: number of failures after the last success, or since the last report.
        first_at: time of the first of these failures, in unix seconds.
        last_at: time of the last delivery, in unix seconds.
        last_status: HTTP status of the last delivery; None without a response.
        is_gone: whether the endpoint answered 410 (Gone).
        form_id: form of the last delivery with a form; empty if there is none.
        open_until: when the circuit breaker that opened lets a probe through, in unix seconds;
            None if none opened.
    """

    id: str
    host: str
    has_success: bool
    failures: int
    first_at: float
    last_at: float
    last_status: int | None
    is_gone: bool = False
    form_id: str = ""
    open_until: float | None = None


def merged(
    record: EndpointRecord | None, report: DeliveryReport, rules: DisableRules
) -> EndpointRecord:
    """Add a report to a record; disables the endpoint if the rules or a 410 demand it."""
    record = record or EndpointRecord(report.id, report.host)
    before = 0 if report.has_success else record.failures
    failures = before + report.failures
    since = (record.failing_since if before else None) or report.first_at
    record = replace(
        record,
        host=report.host,
        form_id=report.form_id or record.form_id,
        failures=failures,
        failing_since=since if failures else None,
        last_status=report.last_status,
        last_at=report.last_at,
        open_until=report.open_until or (None if report.has_success else record.open_until),
    )
    if record.disabled_at is not None:
        return record
    why = None
    if report.is_gone:
        why = "the endpoint answered 410 (Gone)"
    elif failures >= rules.failures:
        why = f"{failures} deliveries in a row failed"
    elif failures and report.last_at - since >= rules.failing_for.total_seconds():
        why = f"no successful delivery for {rules.failing_for.days} days"
    return record if why is None else replace(record, disabled_at=report.last_at, why=why)


class EndpointRegistry(Protocol):
    """Stores the records of endpoints."""

    def report(
        self, reports: Iterable[DeliveryReport], rules: DisableRules
    ) -> list[EndpointRecord]:
        """Add reports to the records; returns the records of newly disabled endpoints."""

    def disabled(self) -> frozenset[str]:
        """Ids of the disabled endpoints."""

    def changes(self, since: Position | None) -> Changes:
        """Read which endpoints were disabled or enabled since a position.

        Args:
            since: ``position`` of the previous changes; None to read the whole set.

        Returns:
            The changes, or the whole set if the changes since that position are no longer stored.
        """

    def all(self) -> list[EndpointRecord]:
        """The records of all failing and disabled endpoints, by id."""

    def disable(self, id: str, *, why: str, now: float) -> bool:
        """Disable an endpoint; returns False if it is disabled already."""

    def enable(self, id: str) -> bool:
        """Enable an endpoint by deleting its record; returns False if it has no record."""

    def keep(
        self,
        delivered: Mapping[str, bytes],
        ttl: timedelta,
        *,
        newest: Mapping[str, str] | None = None,
    ) -> None:
        """Store delivered jobs by webhook-id, for ``ttl``.

        Args:
            newest: webhook-id of the newest of these jobs, by endpoint id.
        """

    def kept(self, id: str) -> bytes | None:
        """The stored job with the webhook-id ``id``; None if there is none."""

    def newest_kept(self, ids: Sequence[str]) -> dict[str, str]:
        """The webhook-id of the newest stored job, for each of these endpoints that has one."""


class MemoryRegistry:
    """An endpoint registry in memory, for one process. Keeps no delivered jobs."""

    def __init__(self) -> None:
        self._records: dict[str, EndpointRecord] = {}
        self._disabled: set[str] = set()
        self._version = 0  # increases with each change of the set
        self._lock = Lock()

    def report(
        self, reports: Iterable[DeliveryReport], rules: DisableRules
    ) -> list[EndpointRecord]:
        disabled = []
        with self._lock:
            for report in reports:
                record = merged(self._records.get(report.id), report, rules)
                if self._put(record):
                    disabled.append(record)
        return disabled

    def disabled(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._disabled)

    def changes(self, since: Position | None) -> Changes:
        with self._lock:
            now, count = (self._version,), len(self._disabled)
            if since == now:
                return Changes(since, now, (), (), count)
            return Changes(None, now, frozenset(self._disabled), (), count)

    def all(self) -> list[EndpointRecord]:
        with self._lock:
            return sorted(self._records.values(), key=lambda record: record.id)

    def disable(self, id: str, *, why: str, now: float) -> bool:
        with self._lock:
            record = self._records.get(id) or EndpointRecord(id, "")
            if record.disabled_at is not None:
                return False
            return self._put(replace(record, disabled_at=now, why=why))

    def enable(self, id: str) -> bool:
        with self._lock:
            if id in self._disabled:
                self._disabled.remove(id)
                self._version += 1
            return self._records.pop(id, None) is not None

    def keep(
        self,
        delivered: Mapping[str, bytes],
        ttl: timedelta,
        *,
        newest: Mapping[str, str] | None = None,
    ) -> None:
        """Do nothing: the command ``resend`` runs in another process and could not read them."""

    def kept(self, id: str) -> bytes | None:
        return None

    def newest_kept(self, ids: Sequence[str]) -> dict[str, str]:
        return {}

    def _put(self, record: EndpointRecord) -> bool:
        """Store a record; returns whether this disables the endpoint. The caller has the lock."""
        if record.is_healthy:
            self._records.pop(record.id, None)
            return False
        self._records[record.id] = record
        if record.disabled_at is None or record.id in self._disabled:
            return False
        self._disabled.add(record.id)
        self._version += 1
        return True
