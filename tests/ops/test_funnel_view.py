"""Drawing of the funnel: bars and durations."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from formrelay.ops.funnel import Duration, FieldCount, Funnel, FunnelQuery, StepCount, default_steps
from formrelay.ops.funnel_view import bar, draw, duration
from tests.support.checkout import ROOT

COUNTS = st.integers(0, 10**9)
WIDTHS = st.integers(1, 60)


@given(COUNTS, COUNTS, WIDTHS)
def test_bars_grow_with_their_value(a: int, b: int, width: int) -> None:
    small, large = sorted((a, b))
    lengths = [_eighths(bar(value, large, width)) for value in (small, large)]
    assert lengths[0] <= lengths[1]
    assert len(bar(large, large, width)) == (width if large else 0)


@given(COUNTS, COUNTS, WIDTHS)
def test_bars_are_accurate_to_an_eighth_of_a_character(a: int, b: int, width: int) -> None:
    small, large = sorted((a, b))
    exact = 8 * width * small / large if large else 0
    assert abs(_eighths(bar(small, large, width)) - exact) <= 1


def test_one_of_a_million_is_visible_and_zero_is_not() -> None:
    assert bar(1, 1_000_000, 40) == "▏"
    assert bar(0, 1_000_000, 40) == bar(0, 0, 40) == ""


def _eighths(drawn: str) -> int:
    return sum(8 if part == "█" else " ▏▎▍▌▋▊▉".index(part) for part in drawn)


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
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_drawing_in_the_document_is_current() -> None:
    viewed, started, completed = default_steps()
    funnel = Funnel(
        FunnelQuery("signup", int(datetime(2026, 3, 1, 9, 30, tzinfo=UTC).timestamp())),
        [
            StepCount(viewed, 1_204, 0),
            StepCount(started, 803, 0),
            StepCount(completed, 512, 12),
        ],
        not_completed=692,
        unanswered=431,
        fields=[
            FieldCount("phone", 633, 121),
            FieldCount("email", 773, 64),
            FieldCount("What brings you here, and who sent you?", 702, 55),
            FieldCount("company", 709, 21),
            FieldCount("name", 512, 0),
        ],
        durations=[Duration(viewed, 512, 227.0, 912.4), Duration(started, 512, 181.0, 655.0)],
    )
    drawn = StringIO()
    draw(Console(file=drawn, width=80, highlight=False, _environ={}), funnel)
    picture = "\n".join(line.rstrip() for line in drawn.getvalue().splitlines())
    assert picture.strip() in (ROOT / "docs" / "events.md").read_text()
