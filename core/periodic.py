"""Calls a function at an interval, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

from .process import current_pid

logger = logging.getLogger("formrelay")


class Periodic:
    """Calls a function every ``interval``, from :meth:`start` to :meth:`stop`.

    It can be started again. An error of the function is logged and does not end the thread. A
    forked process starts a thread of its own.

    Args:
        at_once: call it for the first time right after the start, not after ``interval``.
    """

    def __init__(
        self, name: str, interval: timedelta, do: Callable[[], None], *, at_once: bool = False
    ) -> None:
        self._at_once = at_once
        self._name = name
        self._interval = interval.total_seconds()
        self._do = do
        self._pid = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def runs(self) -> bool:
        """Whether the thread runs in this process."""
        return self._pid == current_pid()

    def start(self) -> bool:
        """Start the thread; returns False if this process has started it already."""
        if self.runs:
            return False
        with self._lock:
            if self.runs:
                return False
            self._pid = current_pid()
            self._stopped = stopped = threading.Event()
        name = f"formrelay-{self._name}"
        threading.Thread(target=self._run, args=(stopped,), name=name, daemon=True).start()
        return True

    def stop(self) -> bool:
        """End the thread after the current call; returns False if this process has none."""
        with self._lock:
            if not self.runs:
                return False
            self._pid = 0
            self._stopped.set()
        return True

    def _run(self, stopped: threading.Event) -> None:
        wait = 0.0 if self._at_once else self._interval
        while not stopped.wait(wait):
            wait = self._interval
            try:
                self._do()
            except Exception as error:
                logger.error("%s failed", self._name, exc_info=error)
