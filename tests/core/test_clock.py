"""Times as text and as milliseconds."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.clock import SYSTEM_CLOCK, iso, to_millis

#: Seconds: from 1970 to 2262.
SECONDS = st.floats(min_value=0, max_value=2**33, allow_nan=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_769_851_800.125, "2026-01-31T09:30:00.125Z"),
        (1_769_851_800.9999, "2026-01-31T09:30:00.999Z"),
        (1_709_164_800, "2024-02-29T00:00:00.000Z"),
    ],
)
def test_times_are_written_in_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert iso(seconds) == text


@given(SECONDS)
def test_written_times_are_read_back_to_the_millisecond(seconds: float) -> None:
    read = datetime.fromisoformat(iso(seconds))
    assert read.tzinfo == UTC
    assert -0.000_01 <= seconds - read.timestamp() < 0.001_01


@given(SECONDS, SECONDS)
def test_written_times_sort_chronologically(one: float, other: float) -> None:
    first, second = sorted((one, other))
    assert iso(first) <= iso(second)


@given(SECONDS)
def test_milliseconds_are_rounded_down(seconds: float) -> None:
    millis = to_millis(seconds)
    assert isinstance(millis, int)
    assert 0 <= seconds - millis / 1000 < 0.001_01


def test_the_system_clock_returns_the_time_of_the_machine() -> None:
    before = time.time(), time.monotonic()
    now = SYSTEM_CLOCK.time(), SYSTEM_CLOCK.monotonic()
    after = time.time(), time.monotonic()
    assert before[0] <= now[0] <= after[0]
    assert before[1] <= now[1] <= after[1]
