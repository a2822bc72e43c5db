"""A look at the broker that ends in time, whatever the broker does."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

from ..brokers import BrokerUnavailable

T = TypeVar("T")


class Look(Generic[T]):
    """Asks the same question for all who want to know at a time, in a thread of its own.

    A broker that hangs, or a crowd of callers, then occupies one thread and one connection.

    Args:
        question: what is asked.
        within: how many seconds are waited for an answer.
    """

    def __init__(self, question: Callable[[], T], *, within: float) -> None:
        self._question = question
        self._within = within
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._of_process = 0
        self._asked: Future[T] | None = None

    def __call__(self) -> T:
        """The answer.

        Raises:
            BrokerUnavailable: there was none in time.
            Exception: whatever the question raises.
        """
        asked = self._ask()
        try:
            return asked.result(self._within)
        except TimeoutError:
            raise BrokerUnavailable(
                f"expected the broker to answer within {self._within:g} s, got nothing: "
                "check that it runs and is not overloaded"
            ) from None

    def _ask(self) -> Future[T]:
        with self._lock:
            if self._pool is None or self._of_process != os.getpid():  # a fork has no threads
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="formrelay-look")
                self._of_process, self._asked = os.getpid(), None
            if self._asked is None or self._asked.done():
                self._asked = self._pool.submit(self._question)
            return self._asked
