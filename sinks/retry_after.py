"""Retry-After: the one place that reads it (RFC 9110, section 10.2.3)."""

from __future__ import annotations

from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime

from ..core.retry import LONGEST_WAIT

# "9" * 5000 is a legal header and more digits than int() takes; ten are 317 years.
_MOST_DIGITS = 10


def parse_retry_after(value: str | None, *, now: float) -> timedelta | None:
    """How long the other side asked to be left alone.

    Args:
        value: the header's text: whole seconds or an HTTP date; None if absent.
        now: unix time in seconds, against which a date is measured.

    Returns:
        At most :data:`LONGEST_WAIT`; None for a value that is absent, negative,
        in the past or not understood, since a wrong header must not stop a retry.
    """
    text = (value or "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        if len(text) > _MOST_DIGITS:
            return LONGEST_WAIT
        return min(timedelta(seconds=int(text)), LONGEST_WAIT)
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:  # "-0000" says: UTC, but of unknown origin
            when = when.replace(tzinfo=UTC)
        seconds = when.timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if seconds <= 0:
        return None
    return timedelta(seconds=min(seconds, LONGEST_WAIT.total_seconds()))
