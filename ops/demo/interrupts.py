"""Turns SIGINT, SIGTERM and SIGHUP into an exception, so that ``finally`` blocks run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_received: list[int] = []


class Interrupted(BaseException):
    """A signal asked this process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__("Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def interrupts() -> Iterator[None]:
    """Raise :class:`Interrupted` at the first signal, and ignore later signals.

    Restores the previous handlers at the end.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        del frame
        ignore()
        _received.append(signum)
        raise Interrupted(signum)

    _received.clear()
    for number in _SIGNALS:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore() -> None:
    """Ignore signals until the end of :func:`interrupts`, so that clean-up can finish."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def check() -> None:
    """Raise :class:`Interrupted` (again) if a signal was received. Call it in waiting loops.

    Python drops an exception that a signal handler raises while an object is finalized.
    """
    if _received:
        raise Interrupted(_received[0])
