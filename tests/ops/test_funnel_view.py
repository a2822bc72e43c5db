"""Bars and durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.ops.funnel_view import bar, duration, plain

COUNTS = st.integers(0, 10**9)
WIDTHS = st.integers(1, 60)


@given(COUNTS, COUNTS, WIDTHS, st.booleans())
def test_a_longer_bar_never_means_less(a: int, b: int, width: int, fine: bool) -> None:
    small, large = sorted((a, b))
    lengths = [_eighths(bar(value, large, width, fine=fine)) for value in (small, large)]
    assert lengths[0] <= lengths[1]
    assert len(bar(large, large, width, fine=fine)) == (width if large else 0)


@given(COUNTS, COUNTS, WIDTHS)
def test_a_bar_is_right_to_an_eighth_of_a_character(a: int, b: int, width: int) -> None:
    small, large = sorted((a, b))
    exact = 8 * width * small / large if large else 0
    assert abs(_eighths(bar(small, large, width)) - exact) <= 1


def test_one_of_a_million_is_seen_and_none_is_not() -> None:
    assert bar(1, 1_000_000, 40) == "▏"
    assert bar(1, 1_000_000, 40, fine=False) == "#"
    assert bar(0, 1_000_000, 40) == bar(0, 0, 40) == ""


def _eighths(drawn: str) -> int:
    return sum(8 if part in "█#" else " ▏▎▍▌▋▊▉".index(part) for part in drawn)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.42, "0.4 s"),
        (9, "9 s"),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (187, "3 min 07 s"),
        (3_599.9, "1 h 00 min"),
        (7_500, "2 h 05 min"),
        (86_400 * 3 + 3_600 * 4, "3 d 4 h"),
    ],
)
def test_a_duration_is_told_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_text_of_events_keeps_its_letters_and_loses_what_a_terminal_obeys() -> None:
    assert plain("né ☃ [bold]") == "né ☃ [bold]"
    assert plain("a\x1b[2J\r\nb\u202e\x9b") == "a�[2J��b��"
