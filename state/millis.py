"""Times as the shared store has them: unix milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def to_millis(when: datetime) -> int:
    """Unix milliseconds, exactly."""
    return (when - _EPOCH) // _MILLISECOND


def duration_millis(duration: timedelta) -> int:
    """A duration in whole milliseconds, at least 1: Redis refuses a time to live of 0."""
    return max(1, duration // _MILLISECOND)


def from_millis(milliseconds: int) -> datetime:
    """The time in UTC."""
    return _EPOCH + milliseconds * _MILLISECOND
