"""The endpoint registry: failures of each endpoint in all processes, and when it is disabled."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from threading import Lock
from typing import Any, Protocol, TypeAlias

import orjson


@dataclass(frozen=True, slots=True)
class DisableRules:
    """When an endpoint is disabled.

    Attributes:
        failures: after so many deliveries in a row that failed.
        failing_for: or when none has worked for so long.
    """

    failures: int = 100
    failing_for: timedelta = timedelta(days=5)


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """One endpoint.

    Attributes:
        host: where it is; nothing else of its address, which may hold secrets.
        failures: in a row.
        failing_since, last_at, disabled_at: unix seconds.
        form_id: of the form that the last delivery was about.
        last_status: what it answered last; None where it did not.
        why: it is disabled.
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

    @property
    def is_clean(self) -> bool:
        """Whether the endpoint is neither failing nor disabled; then no record is stored."""
        return not self.failures and self.disabled_at is None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, id: str, raw: bytes) -> EndpointRecord:
        """The record of an endpoint, as this or another version of formrelay wrote it.

        Unknown fields are ignored, and missing or malformed fields have their defaults: one
        strange record must not stop the others.
        """
        try:
            data = orjson.loads(raw)
        except orjson.JSONDecodeError:
            data = None
        if not isinstance(data, dict):
            data = {}
        known = {
            name: data[name] for name, kind in _KINDS.items() if isinstance(data.get(name), kind)
        }
        return cls(id, **{"host": "", **known})


#: The fields of a stored record, but for the id.
_KINDS: dict[str, Any] = {
    "host": str,
    "failures": int,
    "failing_since": int | float,
    "last_status": int,
    "last_at": int | float,
    "disabled_at": int | float,
    "why": str,
    "form_id": str,
}

#: How far a process has read the changes of a registry.
Position: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Which endpoints have been disabled and enabled.

    Attributes:
        since: after this position. None: ``disabled`` has all disabled endpoints, whatever was
            known before.
        position: up to this one.
        count: the number of endpoints that are disabled now.
    """

    since: Position | None
    position: Position
    disabled: Collection[str]
    enabled: Collection[str]
    count: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing else needs to be known."""
        return self.since is None


@dataclass(slots=True)
class DeliveryReport:
    """What one process has seen of an endpoint since it last reported.

    Attributes:
        has_worked: whether any delivery worked.
        failures: in a row since then, or since the last report.
        first_at: of those, the first one; unix seconds.
        is_gone: it answered that it is gone for good (410).
    """

    id: str
    host: str
    has_worked: bool
    failures: int
    first_at: float
    last_at: float
    last_status: int | None
    is_gone: bool = False
    form_id: str = ""


def merged(
    record: EndpointRecord | None, report: DeliveryReport, rules: DisableRules
) -> EndpointRecord:
    """A record with a report taken in; disabled where the rules say so."""
    found = record or EndpointRecord(report.id, report.host)
    before = 0 if report.has_worked else found.failures
    failures = before + report.failures
    since = (found.failing_since if before else None) or report.first_at
    found = replace(
        found,
        host=report.host,
        form_id=report.form_id or found.form_id,
        failures=failures,
        failing_since=since if failures else None,
        last_status=report.last_status,
        last_at=report.last_at,
    )
    if found.disabled_at is not None:
        return found
    why = None
    if report.is_gone:
        why = "it answered 410 (gone)"
    elif failures >= rules.failures:
        why = f"{failures} deliveries in a row failed"
    elif failures and report.last_at - since >= rules.failing_for.total_seconds():
        why = f"no delivery has worked for {rules.failing_for.days} days"
    return found if why is None else replace(found, disabled_at=report.last_at, why=why)


class EndpointRegistry(Protocol):
    """Where the records are kept."""

    def report(
        self, reports: Iterable[DeliveryReport], rules: DisableRules
    ) -> list[EndpointRecord]:
        """Take reports in; returns the endpoints that are disabled by that."""

    def disabled(self) -> frozenset[str]:
        """The ids of the endpoints that nobody may call."""

    def changes(self, since: Position | None) -> Changes:
        """Which endpoints have been disabled or enabled since a position.

        Args:
            since: of the changes that were read last; None: never. Where the changes since then
                are no longer there, the answer is whole.
        """

    def all(self) -> list[EndpointRecord]:
        """Every endpoint that fails or is disabled."""

    def disable(self, id: str, *, why: str, now: float) -> bool:
        """Disable an endpoint; False where it is disabled already."""

    def enable(self, id: str) -> bool:
        """Forget what speaks against an endpoint; False where nothing does."""

    def keep(self, delivered: Mapping[str, bytes], lasts: timedelta) -> None:
        """Keep what was delivered, by webhook-id, for so long."""

    def kept(self, id: str) -> bytes | None:
        """What was kept of a webhook."""


class MemoryRegistry:
    """Of this process alone, until it ends."""

    def __init__(self) -> None:
        self._records: dict[str, EndpointRecord] = {}
        self._disabled: set[str] = set()
        self._version = 0  # of the set of disabled endpoints
        self._lock = Lock()

    def report(
        self, reports: Iterable[DeliveryReport], rules: DisableRules
    ) -> list[EndpointRecord]:
        found = []
        with self._lock:
            for report in reports:
                after = merged(self._records.get(report.id), report, rules)
                if self._put(after):
                    found.append(after)
        return found

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
            return sorted(self._records.values(), key=lambda one: one.id)

    def disable(self, id: str, *, why: str, now: float) -> bool:
        with self._lock:
            found = self._records.get(id) or EndpointRecord(id, "")
            if found.disabled_at is not None:
                return False
            return self._put(replace(found, disabled_at=now, why=why))

    def enable(self, id: str) -> bool:
        with self._lock:
            if id in self._disabled:
                self._disabled.remove(id)
                self._version += 1
            return self._records.pop(id, None) is not None

    def keep(self, delivered: Mapping[str, bytes], lasts: timedelta) -> None:
        """Nobody else could read it here."""

    def kept(self, id: str) -> bytes | None:
        return None

    def _put(self, record: EndpointRecord) -> bool:
        """Store a record, under the lock; whether the endpoint is disabled by that."""
        if record.is_clean:
            self._records.pop(record.id, None)
            return False
        self._records[record.id] = record
        if record.disabled_at is None or record.id in self._disabled:
            return False
        self._disabled.add(record.id)
        self._version += 1
        return True
