"""Calls to the broker with a timeout, shared by concurrent callers."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

from ..brokers import BrokerUnavailable

T = TypeVar("T")


class SharedCall(Generic[T]):
    """Calls a function in one thread; concurrent callers share the call and its result.

    So a broker that hangs, or many callers, occupy one thread and one connection.

    Args:
        function: the function to call.
        timeout: seconds that a caller waits.
    """

    def __init__(self, function: Callable[[], T], *, timeout: float) -> None:
        self._function = function
        self._timeout = timeout
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0
        self._running: Future[T] | None = None

    def __call__(self) -> T:
        """Return the result.

        Raises:
            BrokerUnavailable: the call did not return in time.
            Exception: any exception of the function.
        """
        running = self._start()
        try:
            return running.result(self._timeout)
        except TimeoutError:
            raise BrokerUnavailable(
                f"expected the broker to answer within {self._timeout:g} s, got no answer: "
                "check that it runs and is not overloaded"
            ) from None

    def _start(self) -> Future[T]:
        with self._lock:
            if self._pool is None or self._pid != os.getpid():  # a fork copies no threads
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="formrelay-shared-call")
                self._pid, self._running = os.getpid(), None
            if self._running is None or self._running.done():
                self._running = self._pool.submit(self._function)
            return self._running
