"""Ctrl-C, SIGTERM and a closed terminal as one exception, so that ``finally`` runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_asked: list[int] = []


class Interrupted(BaseException):
    """A signal asked this process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__("Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def interrupts() -> Iterator[None]:
    """Within, the first signal raises :class:`Interrupted`.

    Further ones are ignored, and put back as they were at the end.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        del frame
        ignore()
        _asked.append(signum)
        raise Interrupted(signum)

    _asked.clear()
    for number in _SIGNALS:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore() -> None:
    """Ignore further signals until the end of :func:`interrupts`: what is begun takes seconds."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def check() -> None:
    """Raise :class:`Interrupted` (again) if a signal came.

    Python drops an exception that a signal raises while an object is being
    finalised; whoever waits in a loop asks here as well.
    """
    if _asked:
        raise Interrupted(_asked[0])
