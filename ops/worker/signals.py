"""The signals that stop a worker process: SIGTERM, which may come twice, and SIGHUP."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ...core.exit_reason import set_exit_reason

#: Seconds within which a second signal is taken for a copy of the first.
_COPY_WITHIN = 5.0
_NUMBERS = (signal.SIGTERM, *filter(None, [getattr(signal, "SIGHUP", None)]))


class StopSignals:
    """Passes the signals that stop this worker process on to Dramatiq.

    ``timeout``, ``docker compose`` with ``init``, systemd without ``KillMode=mixed`` and Ctrl-C of
    some shells send SIGTERM to all processes of a group. Dramatiq's main process passes its own on
    to its workers, which take the second for an order to leave their jobs unfinished. So one
    repetition is ignored. A third signal, or a second one after five seconds, still is that order.

    A worker that is to be recycled is ended without a signal (:meth:`end_worker`), and the first
    signal that follows is not the second for Dramatiq.

    Args:
        stop: Dramatiq's handler; its first call ends the worker, its second leaves jobs unfinished.
    """

    def __init__(self, stop: Callable[[int, FrameType | None], Any]) -> None:
        self._stop = stop
        self._first: float | None = None
        self._was_copied = False
        #: Empty as soon as Dramatiq's handler was called. Two threads cannot take the same item.
        self._untold = [None]
        if _was_called(stop):
            # While the program of the worker was imported. The next signal may be its copy.
            self._first = time.monotonic()
            self._untold.clear()
            set_exit_reason("stopped")

    @property
    def were_received(self) -> bool:
        """Whether this process is to stop."""
        return self._first is not None

    def end_worker(self) -> None:
        """End the worker, as the first signal does. May be called by any thread."""
        self._tell_once(signal.SIGTERM, None)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            set_exit_reason("stopped")
            self._tell_once(number, frame)
        elif not self._was_copied and now - self._first < _COPY_WITHIN:
            self._was_copied = True
        else:
            self._stop(number, frame)

    def _tell_once(self, number: int, frame: FrameType | None) -> None:
        with suppress(IndexError):
            self._untold.pop()
            self._stop(number, frame)


def _was_called(stop: Callable[..., Any]) -> bool:
    """Whether Dramatiq's handler was called: it notes that in a variable of its closure."""
    names = getattr(getattr(stop, "__code__", None), "co_freevars", ())
    cells = getattr(stop, "__closure__", None) or ()
    running = dict(zip(names, cells, strict=False)).get("running")
    return running is not None and running.cell_contents is False


@contextmanager
def stopped_before_start() -> Iterator[None]:
    """Exit with 0 on SIGTERM; afterwards, hold the signal back for the program that follows.

    For process 1 of a container, the kernel drops a signal that has no handler, so it would be
    lost until Dramatiq handles it. A blocked signal stays pending while ``execv`` replaces the
    program, and Dramatiq receives it as soon as it has its handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, before)
        raise
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


_installed: StopSignals | None = None


def handle_stop_signals() -> None:
    """Handle the signals that stop this process from now on.

    Does nothing outside the main thread, and for a signal without a handler in Python.
    """
    global _installed
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop) or threading.current_thread() is not threading.main_thread():
        return
    _installed = StopSignals(stop)
    for number in _NUMBERS:
        if signal.getsignal(number) is stop:
            signal.signal(number, _installed.handle)


def stop_signals() -> StopSignals | None:
    """The handled signals; None if :func:`handle_stop_signals` has installed no handler."""
    return _installed
