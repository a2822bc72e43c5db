"""Lets a worker process survive the same SIGTERM twice."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

#: Seconds within which a second signal is taken for a copy of the first.
_COPY_WITHIN = 2.0


def ignore_copied_signal(number: int = signal.SIGTERM) -> None:
    """Ignore one repetition of a signal that stops this worker process.

    ``timeout``, ``docker compose`` with ``init``, systemd without ``KillMode=mixed`` and Ctrl-C of
    some shells send SIGTERM to all processes of a group. Dramatiq's main process passes its own on
    to its workers, which take the second for an order to leave their jobs unfinished. A third
    signal, or a second one after two seconds, still is that order.

    Does nothing if the signal has no handler in Python, or outside the main thread.
    """
    stop = signal.getsignal(number)
    if not callable(stop) or threading.current_thread() is not threading.main_thread():
        return
    first: float | None = None
    was_copied = False

    def handle(signal_number: int, frame: FrameType | None) -> None:
        nonlocal first, was_copied
        now = time.monotonic()
        if first is not None and not was_copied and now - first < _COPY_WITHIN:
            was_copied = True
            return
        first = now if first is None else first
        stop(signal_number, frame)

    signal.signal(number, handle)
