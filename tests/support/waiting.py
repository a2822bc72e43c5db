"""Polls for conditions that have no signal to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, timeout: float = 60.0, every: float = 0.005) -> T:
    """Wait for a true value of ``condition`` and return it.

    Args:
        timeout: seconds; generous, because the machine may be busy. A test that promises a shorter
            time has to measure it.
        every: seconds between two calls, at first; then it grows to 0.05, since calls cost a server
            CPU. 0.3 or more if a call starts a process.

    Raises:
        AssertionError: no true value within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    pause = every
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: last value {value!r}")
        time.sleep(pause)
        pause = max(every, min(1.1 * pause, 0.05))
