"""An event loop in a thread, for synchronous tests of coroutines."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from formrelay.brokers.event_loop import EventLoopThread

T = TypeVar("T")

_thread = EventLoopThread()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine and return its result; all threads share one event loop."""
    return _thread.run(coroutine)
