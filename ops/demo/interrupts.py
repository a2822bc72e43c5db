"""Ctrl-C, SIGTERM and a closed terminal as one exception, so that ``finally`` runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked this process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__("Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def interrupts() -> Iterator[None]:
    """Within, the first signal raises :class:`Interrupted`.

    Further ones are ignored: what is being stopped then is stopped within seconds.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        del frame
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(signum)

    for number in _SIGNALS:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
