"""Waiting for what has no signal of its own, until it is there and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, timeout: float = 60.0, every: float = 0.005) -> T:
    """The first true value of ``condition``, asked every so many seconds.

    The timeout is for a busy machine. A test that promises a time fails for another reason: what
    would be too slow takes longer than the timeout there.

    Raises:
        AssertionError: there was none within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: last value {value!r}")
        time.sleep(every)
