"""Time is an argument: the only file that reads the clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """What time it is. Pass one in; tests pass their own."""

    def time(self) -> float:
        """Unix time in seconds."""

    def monotonic(self) -> float:
        """Seconds that only grow, from an arbitrary start."""


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


SYSTEM_CLOCK: Clock = SystemClock()


def to_millis(seconds: float) -> int:
    """Unix seconds as the integer milliseconds that Dramatiq and the brokers keep."""
    return int(seconds * 1000)


def iso(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC with milliseconds: ``2026-01-31T09:30:00.125Z``."""
    whole = int(seconds // 1)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03}Z"


@lru_cache(maxsize=16)  # log lines come many a second
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
