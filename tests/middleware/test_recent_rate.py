"""The rate of the last minute."""

from __future__ import annotations

from formrelay.middleware.recent_rate import RecentRate
from formrelay.state.history import Tally


def test_the_rate_is_that_of_the_last_minute() -> None:
    rate = RecentRate(100.0)
    assert rate.figures(100.0) == (0.0, None)
    rate.add(110.0, [Tally(done=60, deferred=500), Tally(retried=30, dead=10)])
    assert rate.figures(110.0) == (10.0, 0.4)  # of the ten seconds since the start
    rate.add(160.0, [Tally(done=20)])
    assert rate.figures(160.0) == (2.0, 40 / 120)
    rate.add(170.0, [])
    assert rate.figures(170.0) == (20 / 60, 0.0)
    rate.add(220.0, [])
    assert rate.figures(220.0) == (0.0, None)


def test_the_first_second_of_a_worker_exaggerates_no_rate() -> None:
    rate = RecentRate(100.0)
    rate.add(100.001, [Tally(done=5)])
    assert rate.figures(100.001) == (5.0, 0.0)
