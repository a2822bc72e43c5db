"""The clock, and formats of its times.

Code whose tests set the time takes a :class:`Clock` as an argument. Timeouts of sockets and
processes use :mod:`time`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """A source of time. Tests pass a clock of their own."""

    def time(self) -> float:
        """Unix time in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never decreases."""


class SystemClock:
    """The clock of this machine."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


SYSTEM_CLOCK: Clock = SystemClock()


def to_millis(seconds: float) -> int:
    """Convert unix seconds to integer milliseconds, the unit of Dramatiq and the brokers."""
    return int(seconds * 1000)


def iso(seconds: float) -> str:
    """Format unix seconds as ISO 8601 in UTC, with milliseconds: ``2026-01-31T09:30:00.125Z``."""
    return iso_of_millis(int(seconds * 1000 // 1))


@lru_cache(maxsize=64)  # many log lines fall into the same millisecond
def iso_of_millis(millis: int) -> str:
    """Format unix milliseconds like :func:`iso`."""
    seconds, rest = divmod(millis, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=16)  # many log lines fall into the same second
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
