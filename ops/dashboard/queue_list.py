"""The names of the queues, kept for seconds: Redis finds them by a scan of its keys."""

from __future__ import annotations

from threading import Lock

from ...brokers import NotAvailable, RelayBroker

_KEEP_SECONDS = 10.0


class QueueList:
    """The queues of a broker."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._until = 0.0
        self._names: list[str] = []

    def names(self, broker: RelayBroker) -> list[str]:
        """Return the names of all queues that are known, sorted."""
        with self._lock:
            now = broker.clock.monotonic()
            if now >= self._until or not broker.queues <= set(self._names):
                self._names = broker.inspector.queues()
                self._until = now + _KEEP_SECONDS
            return list(self._names)

    def why_incomplete(self, broker: RelayBroker) -> str | None:
        """Say why queues may be missing; None if the list is complete."""
        try:
            broker.inspector.check_listing()
        except NotAvailable as error:
            return str(error)
        return None
