"""Takes the findings of a look: states and outbox are read, changed, and written in one step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...config import AlertSettings
from ...config.alerts import RULES, number_of
from ...state.alert_store import AlertStore, OutboxEntry
from .alert_states import AlertState, Timing, advance, states_from_json, states_to_json
from .messages import Notification, firing_now, notify
from .outbox_delivery import OutboxDelivery
from .rules import Evaluation

logger = logging.getLogger("formrelay.alerts")

#: Seconds after which entries of receivers that this monitor does not have are dropped.
_FOREIGN_SECONDS = 86_400.0
#: Maximum number of queues and of samples of each whose dead letters are remembered.
_MAX_QUEUES, _MAX_SAMPLES = 1_000, 10


@dataclass(slots=True)
class Memory:
    """The data that a monitor keeps in the store from look to look.

    Attributes:
        alerts: the states of alerts, by key.
        dead: by queue, numbers of dead letters with the time when they were counted.
    """

    alerts: Mapping[str, AlertState] = field(default_factory=dict)
    dead: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def note_dead(self, counts: Mapping[str, int], now: float, window: float) -> dict[str, int]:
        """Remember numbers of dead letters, and return by how many they have grown.

        Args:
            counts: by queue.
            window: seconds; growth is counted from the lowest number in it.
        """
        grown = {}
        kept: dict[str, list[tuple[float, int]]] = {}
        for queue, count in list(counts.items())[:_MAX_QUEUES]:
            samples = [each for each in self.dead.get(queue, []) if now - window <= each[0] <= now]
            grown[queue] = count - min([number for _, number in samples] + [count])
            if not samples or now - samples[-1][0] >= window / _MAX_SAMPLES:
                samples.append((now, count))
            elif count < samples[-1][1]:  # replayed or deleted
                samples[-1] = (now, count)
            kept[queue] = samples[-_MAX_SAMPLES - 1 :]
        self.dead = kept
        return grown

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return {"alerts": states_to_json(self.alerts), "dead": self.dead}

    @classmethod
    def from_json(cls, data: Any) -> Memory:
        """Read the memory of this or another version."""
        known = data if isinstance(data, dict) else {}
        dead = known.get("dead")
        try:
            samples = {
                str(queue): [(float(at), int(number)) for at, number in found]
                for queue, found in (dead or {}).items()
            }
        except (AttributeError, TypeError, ValueError):
            samples = {}
        return cls(states_from_json(known.get("alerts")), samples)


def timings(settings: AlertSettings) -> dict[str, Timing]:
    """The times of each rule."""
    return {
        rule: Timing(
            number_of(settings.for_seconds, rule),
            number_of(settings.hold_seconds, rule),
            number_of(settings.repeat_seconds, rule),
        )
        for rule in RULES
    }


class Watch:
    """The alerts in one store.

    Args:
        name: name of the monitor, which holds the store's lease.
    """

    def __init__(
        self, store: AlertStore, name: str, settings: AlertSettings, delivery: OutboxDelivery
    ) -> None:
        self._store = store
        self._name = name
        self._settings = settings
        self._timings = timings(settings)
        self.delivery = delivery
        self._last: tuple[Sequence[OutboxEntry], Sequence[Notification]] = (), ()

    def note(
        self, look: Callable[[Memory, Sequence[OutboxEntry]], Evaluation], now: float
    ) -> list[AlertState] | None:
        """Look, and write what follows; then deliver the outbox.

        Args:
            look: returns the findings, given the memory and the outbox.
            now: Unix seconds by the store's clock.

        Returns:
            The alerts that are firing; None if another monitor has the lease: nothing is changed.

        Raises:
            BrokerError: the store failed.
        """
        states, outbox = self._store.load()
        memory = Memory.from_json(states)
        evaluation = look(memory, outbox)
        memory.alerts, events = advance(
            memory.alerts, evaluation.findings, evaluation.unknown, now, self._timings
        )
        added = []
        for event in events:
            id, notification = notify(event, self._settings.source, now)
            about = dict(notification["labels"]).get("receiver")
            added += [
                OutboxEntry(id, name, notification, now)
                for name in self.delivery.names
                if name != about  # it would not take this either
            ]
        dropped = self._store.commit(self._name, memory.to_json(), added)
        if dropped is None:
            return None
        if dropped:
            logger.error(
                "dropped alerts that their receiver did not take", extra={"count": dropped}
            )
        entries = self._without_outdated([*outbox, *added], now)
        firing = [state for state in memory.alerts.values() if state.is_firing]
        notifications = [firing_now(state, self._settings.source, now) for state in firing]
        self._last = entries, notifications
        self.delivery.deliver(entries, notifications)
        return firing

    def deliver_again(self) -> None:
        """Deliver the entries left after the last look, while the store is unreachable."""
        self.delivery.deliver(*self._last)

    def stand_by(self) -> None:
        """Deliver nothing: another monitor leads."""
        self._last = (), ()
        self.delivery.deliver(())

    def _without_outdated(self, entries: Sequence[OutboxEntry], now: float) -> list[OutboxEntry]:
        """Remove repetitions that a later entry replaces, and old entries of unknown receivers."""
        newest = {(each.receiver, each.notification["key"]): each.key for each in entries}
        outdated = [
            each
            for each in entries
            if (
                each.notification["event"] == "repeated"
                and newest[each.receiver, each.notification["key"]] != each.key
            )
            or (each.receiver not in self.delivery.names and now - each.at > _FOREIGN_SECONDS)
        ]
        if outdated:
            self._store.settle(outdated)
        left = {each.key for each in outdated}
        return [each for each in entries if each.key not in left]
