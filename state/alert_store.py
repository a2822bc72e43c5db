"""The store that monitors share: the leader, the states of alerts, and the outbox.

A monitor that wants to lead asks at each interval. One of them holds the lease, and it alone
changes the states of alerts. It writes them in the same step as the notifications that follow from
the change. A notification stays in the outbox until its receiver accepts it, whoever sends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from threading import Lock
from typing import Any, Protocol

from ..core.clock import SYSTEM_CLOCK, Clock

#: Maximum number of notifications for one receiver; then the oldest is dropped.
MAX_ENTRIES = 200
#: Maximum number of monitors that are remembered, and for how long after their last call.
MAX_MONITORS, MONITOR_KEEP = 200, timedelta(minutes=10)
#: How long states and notifications are kept after the last change.
KEEP = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Leadership:
    """The answer to a monitor that wants to lead.

    Attributes:
        leads: whether the monitor that asked holds the lease.
        now: Unix seconds by the store's clock.
        ends: when the lease ends if the leader does not extend it, Unix seconds.
        monitors: the monitors that asked lately: the leader, then the others by name.
        clocks: by monitor, how many seconds its clock was ahead of the store's when it asked last.
    """

    leads: bool
    now: float
    ends: float
    monitors: tuple[str, ...]
    clocks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A notification for one receiver.

    Attributes:
        id: the same in every attempt to deliver it, and of the same event for every receiver.
        receiver: name of the receiver, without secrets.
        notification: plain JSON.
        at: when it was added, Unix seconds by the store's clock.
        attempts: number of failed attempts.
        next_at: time of the next attempt, Unix seconds by the store's clock.
    """

    id: str
    receiver: str
    notification: Any
    at: float
    attempts: int = 0
    next_at: float = 0.0

    @property
    def key(self) -> str:
        """Key in the outbox."""
        return f"{self.receiver} {self.id}"

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return {
            "id": self.id,
            "receiver": self.receiver,
            "notification": self.notification,
            "at": self.at,
            "attempts": self.attempts,
            "next_at": self.next_at,
        }

    @classmethod
    def from_json(cls, data: Any) -> OutboxEntry | None:
        """Read an entry; None for an entry that this version cannot read."""
        try:
            return cls(
                str(data["id"]),
                str(data["receiver"]),
                data["notification"],
                float(data["at"]),
                int(data.get("attempts", 0)),
                float(data.get("next_at", 0)),
            )
        except (KeyError, TypeError, ValueError):
            return None


class AlertStore(Protocol):
    """The store that monitors share. Each call is atomic.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def lead(self, name: str, lasts: timedelta, clock: float) -> Leadership:
        """Take the lease, or extend it.

        Args:
            name: name of the monitor.
            lasts: time from now after which the lease of a dead leader ends.
            clock: Unix seconds by the monitor's clock.
        """

    def let_go(self, name: str) -> None:
        """Give back the lease, if the monitor has it, and forget the monitor."""

    def load(self) -> tuple[Any, list[OutboxEntry]]:
        """Return the states as plain JSON (None: there are none) and the outbox, oldest first."""

    def commit(self, name: str, states: Any, entries: Sequence[OutboxEntry]) -> int | None:
        """Replace the states and add entries to the outbox, if the monitor holds the lease.

        Returns:
            Number of the oldest entries that were dropped, because a receiver has more than
            :data:`MAX_ENTRIES`; None if the monitor does not hold the lease: nothing is changed.
        """

    def settle(self, delivered: Sequence[OutboxEntry], failed: Sequence[OutboxEntry] = ()) -> None:
        """Remove delivered entries, and update failed entries that are still in the outbox."""


class MemoryAlertStore:
    """The states of one monitor that works alone. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, most: int = MAX_ENTRIES) -> None:
        self._clock = clock
        self._most = most
        self._lock = Lock()
        self._leader, self._until = "", 0.0
        self._seen: dict[str, tuple[float, float]] = {}
        self._states: Any = None
        self._outbox: dict[str, OutboxEntry] = {}

    def lead(self, name: str, lasts: timedelta, clock: float) -> Leadership:
        with self._lock:
            now = self._clock.time()
            if self._leader in ("", name) or now >= self._until:
                self._leader, self._until = name, now + lasts.total_seconds()
            self._seen[name] = now, clock - now
            oldest = now - MONITOR_KEEP.total_seconds()
            self._seen = {each: seen for each, seen in self._seen.items() if seen[0] >= oldest}
            clocks = {each: ahead for each, (_, ahead) in self._seen.items()}
            monitors = leader_first(self._leader, clocks)
            return Leadership(self._leader == name, now, self._until, monitors, clocks)

    def let_go(self, name: str) -> None:
        with self._lock:
            self._seen.pop(name, None)
            if self._leader == name:
                self._leader = ""

    def load(self) -> tuple[Any, list[OutboxEntry]]:
        with self._lock:
            return self._states, in_order(self._outbox.values())

    def commit(self, name: str, states: Any, entries: Sequence[OutboxEntry]) -> int | None:
        with self._lock:
            if self._leader != name or self._clock.time() >= self._until:
                return None
            self._states = states
            for entry in entries:
                self._outbox.setdefault(entry.key, entry)
            dropped = too_many(self._outbox.values(), self._most)
            for entry in dropped:
                del self._outbox[entry.key]
            return len(dropped)

    def settle(self, delivered: Sequence[OutboxEntry], failed: Sequence[OutboxEntry] = ()) -> None:
        with self._lock:
            for entry in delivered:
                self._outbox.pop(entry.key, None)
            for entry in failed:
                if entry.key in self._outbox:
                    self._outbox[entry.key] = replace(entry)


def leader_first(leader: str, monitors: Mapping[str, object]) -> tuple[str, ...]:
    """Order the names of monitors: the leader, then the others by name."""
    others = sorted(name for name in monitors if name != leader)
    return (leader, *others) if leader in monitors else tuple(others)


def in_order(entries: Iterable[OutboxEntry]) -> list[OutboxEntry]:
    """Sort entries by the time when they were added."""
    return sorted(entries, key=lambda entry: (entry.at, entry.id))


def too_many(entries: Iterable[OutboxEntry], most: int) -> list[OutboxEntry]:
    """Return the oldest entries of each receiver that has more than ``most``."""
    by_receiver: dict[str, list[OutboxEntry]] = {}
    for entry in in_order(entries):
        by_receiver.setdefault(entry.receiver, []).append(entry)
    return [entry for found in by_receiver.values() for entry in found[: max(0, len(found) - most)]]
