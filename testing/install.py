"""Makes a :class:`.MemoryBroker` the broker of this process."""

from __future__ import annotations

from threading import Lock

from ..brokers import use_broker
from ..config import allow_no_broker
from .broker import MemoryBroker

_lock = Lock()
_broker: MemoryBroker | None = None


def use_memory_broker() -> MemoryBroker:
    """Make a :class:`.MemoryBroker` the broker of this process, and return it.

    Call it before the modules with actors are imported. ``get_broker()`` then returns it, plain
    ``@dramatiq.actor`` uses it, and the settings need no broker. Further calls return the same
    broker.

    Raises:
        ConfigError: actors are declared on another broker.
    """
    global _broker
    with _lock:
        if _broker is None:
            broker = MemoryBroker()
            use_broker(broker)
            allow_no_broker()
            _broker = broker
        return _broker
