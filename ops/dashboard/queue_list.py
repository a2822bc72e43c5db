"""The names of the queues, cached: on Redis, finding them takes a scan of the keys."""

from __future__ import annotations

from ...brokers import NotAvailable, RelayBroker
from .cached import Cached

_CACHE_SECONDS = 10.0


class QueueList:
    """The queues of a broker."""

    def __init__(self) -> None:
        self._names = Cached(lambda broker: broker.inspector.queues(), _CACHE_SECONDS)

    def names(self, broker: RelayBroker) -> list[str]:
        """Return the names of all queues that are known, sorted."""
        if not broker.queues <= set(self._names.get(broker)):  # a queue was just declared
            self._names.expire()
        return list(self._names.get(broker))

    def why_incomplete(self, broker: RelayBroker) -> str | None:
        """Return why queues may be missing; None if the list is complete."""
        try:
            broker.inspector.check_listing()
        except NotAvailable as error:
            return str(error)
        return None
