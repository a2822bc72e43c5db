"""Sparklines: bars that add up, and stay inside of the picture."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from formrelay.ops.dashboard.sparklines import HEIGHT, WIDTH, sparkline
from formrelay.state.history import Point

COUNTS = st.tuples(*[st.integers(0, 10**7)] * 3)


def bars(path: str) -> list[list[int]]:
    """Left, bottom, width and height of each bar."""
    found = re.findall(r"M(\d+) (\d+)h(\d+)v-(\d+)h-(\d+)z", path)
    assert "".join("M{} {}h{}v-{}h-{}z".format(*each) for each in found) == path
    return [[int(number) for number in each[:4]] for each in found]


@given(st.lists(COUNTS, max_size=150), st.integers(1, 48))
def test_bars_are_inside_of_the_picture_and_stand_on_each_other(
    counts: list[tuple[int, int, int]], most: int
) -> None:
    points = [Point(60.0 * at, 60.0, *each) for at, each in enumerate(counts)]
    line = sparkline(points, bars=most, period="last hour")
    good, bad = bars(line.good), bars(line.bad)
    assert len(good) <= most
    for left, bottom, width, height in good + bad:
        assert 0 <= left < left + width <= WIDTH
        assert 0 <= bottom - height < bottom <= HEIGHT
    tops = {left: bottom - height for left, bottom, _, height in good}
    assert all(bottom == tops.get(left, HEIGHT) for left, bottom, _, _ in bad)
    total = sum(sum(each) for each in counts)
    assert line.label == (
        f"last hour: {total:,} attempts, {sum(sum(each[1:]) for each in counts):,} failed"
        if total
        else "last hour: no jobs"
    )


def test_now_is_on_the_right_and_a_single_failure_is_seen() -> None:
    points = [Point(60.0 * at, 60.0, 10**6) for at in range(59)]
    line = sparkline([*points, Point(3540.0, 60.0, 10**6, 0, 1)], bars=30, period="last hour")
    (failed,) = bars(line.bad)
    assert failed[0] + 8 == WIDTH
    assert failed[3] >= 2
    assert len(bars(line.good)) == 30
