"""Tools for testing actors: an in-memory broker, a clock that a test can move, a worker.

:class:`MemoryBroker` keeps the semantics of the real brokers: decoding, middleware, retries,
batches, async actors and settlement are the code of :mod:`formrelay.brokers`; only the queues are
in memory. ``plugin.py`` has the pytest fixtures (``-p formrelay.testing.plugin``).
"""

from __future__ import annotations

from .broker import MemoryBroker
from .clock import MovableClock
from .install import use_memory_broker
from .workers import running_worker

__all__ = ["MemoryBroker", "MovableClock", "running_worker", "use_memory_broker"]
