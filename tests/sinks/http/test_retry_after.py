"""Retry-After in every format that servers send."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.retry import LONGEST_WAIT
from formrelay.sinks.http.headers import parse_retry_after

NOW = 784111717.0  # Sun, 06 Nov 1994 08:48:37 GMT

CASES: list[tuple[str | None, timedelta | None]] = [
    (None, None),
    ("", None),
    ("0", timedelta(0)),
    ("120", timedelta(seconds=120)),
    (" 120 ", timedelta(seconds=120)),
    ("86400", timedelta(hours=24)),
    ("86401", LONGEST_WAIT),
    ("9" * 5000, LONGEST_WAIT),
    ("-5", None),
    ("1.5", None),
    ("١٢", None),  # digits that are not ASCII
    ("soon", None),
    ("Sun, 06 Nov 1994 08:49:37 GMT", timedelta(seconds=60)),
    ("Sunday, 06-Nov-94 08:49:37 GMT", timedelta(seconds=60)),
    ("Sun, 06 Nov 1994 10:49:37 +0200", timedelta(seconds=60)),
    ("Sun, 06 Nov 1994 08:49:37 -0000", timedelta(seconds=60)),
    ("Sun, 06 Nov 1994 08:47:37 GMT", None),
    ("Sun, 06 Nov 2094 08:49:37 GMT", LONGEST_WAIT),
    ("Sun, 99 Nov 1994 08:49:37 GMT", None),
    ("Sun, 06 Nov 99999 08:49:37 GMT", None),
]


@pytest.mark.parametrize(("value", "expected"), CASES)
def test_each_form_is_parsed_or_ignored(value: str | None, expected: timedelta | None) -> None:
    assert parse_retry_after(value, now=NOW) == expected


@given(st.text(), st.floats(min_value=0, max_value=1e11))
def test_any_header_is_parsed_to_a_wait_from_0_to_24_hours_or_ignored(
    value: str, now: float
) -> None:
    wait = parse_retry_after(value, now=now)
    assert wait is None or timedelta(0) <= wait <= LONGEST_WAIT
