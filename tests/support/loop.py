"""One asyncio event loop in a thread, for tests that want a coroutine's result."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from formrelay.brokers.event_loop import EventLoopThread

T = TypeVar("T")

_thread = EventLoopThread()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; callers in several threads share the event loop."""
    return _thread.run(coroutine)
