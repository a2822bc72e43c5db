"""Throttle: pauses and batch sizes for a sink that is unavailable or busy."""

from __future__ import annotations

from datetime import timedelta

import pytest

from formrelay.core.errors import (
    InvalidJob,
    NotNow,
    PartsFailed,
    SinkBusy,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from formrelay.core.throttle import Throttle
from tests.support.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def throttle(clock: ManualClock) -> Throttle:
    return Throttle("clickhouse", clock=clock)


def test_a_new_throttle_does_not_pause(throttle: Throttle) -> None:
    assert (throttle.allowance, throttle.open_for(), throttle.stretch) == (None, timedelta(0), 1)


@pytest.mark.parametrize("kind", [SinkUnavailable, SinkBusy, SinkUnready])
def test_an_unavailable_sink_pauses_ever_longer_then_gets_one_message(
    throttle: Throttle, clock: ManualClock, kind: type[SinkTransient]
) -> None:
    waits = []
    for _ in range(8):
        throttle.note(kind())
        waits.append(throttle.open_for().total_seconds())
        assert throttle.allowance == 0
        clock.now += waits[-1]
        assert throttle.allowance == 1
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    throttle.note(None)
    assert throttle.allowance is None
    throttle.note(kind())
    assert throttle.open_for() == timedelta(seconds=1)


def test_failures_during_a_pause_do_not_lengthen_it(throttle: Throttle, clock: ManualClock) -> None:
    for _ in range(5):  # batches that were in flight when the pause began
        throttle.note(SinkUnavailable())
    assert throttle.open_for() == timedelta(seconds=1)


def test_retry_after_sets_the_pause(throttle: Throttle) -> None:
    throttle.note(SinkBusy(retry_after=timedelta(seconds=10)))
    assert throttle.open_for() == timedelta(seconds=10)


def test_batches_for_a_busy_sink_grow_and_later_shrink(
    throttle: Throttle, clock: ManualClock
) -> None:
    sizes = []
    for _ in range(5):
        throttle.note(SinkBusy())
        sizes.append(throttle.stretch)
        clock.now += 60
    assert sizes == [2, 4, 8, 8, 8]
    for _ in range(60):
        throttle.note(None)
    assert throttle.stretch == 1
    throttle.note(SinkUnavailable())
    assert throttle.stretch == 1


NOT_ABOUT_THE_SINK = [
    SinkTransient(),
    InvalidJob(),
    NotNow(after=timedelta(0)),
    PartsFailed({0: InvalidJob(), 1: SinkTransient()}),
]


@pytest.mark.parametrize("error", NOT_ABOUT_THE_SINK, ids=repr)
def test_errors_that_do_not_concern_the_sink_change_nothing(
    throttle: Throttle, clock: ManualClock, error: Exception
) -> None:
    throttle.note(error)
    assert throttle.allowance is None
    throttle.note(SinkUnavailable())
    clock.now += 1
    throttle.note(error)
    assert throttle.allowance == 1


@pytest.mark.parametrize("error", [SinkPermanent(), PartsFailed({0: SinkPermanent()})], ids=repr)
def test_a_sink_that_refuses_a_job_is_available(
    throttle: Throttle, clock: ManualClock, error: Exception
) -> None:
    throttle.note(SinkUnavailable())
    clock.now += 1
    throttle.note(error)
    assert throttle.allowance is None


def test_a_success_that_started_before_a_pause_does_not_end_it(
    throttle: Throttle, clock: ManualClock
) -> None:
    # With eight threads and TOO_MANY_PARTS, some inserts succeed while others are refused.
    throttle.note(SinkBusy())
    throttle.note(None)
    assert throttle.allowance == 0
    clock.now += 1
    throttle.note(SinkBusy())
    throttle.note(None)
    assert throttle.open_for() == timedelta(seconds=2)
    clock.now += 2
    throttle.note(None)
    assert throttle.allowance is None


def test_only_time_ends_a_pause_for_a_limit(throttle: Throttle, clock: ManualClock) -> None:
    throttle.pause(timedelta(seconds=10))
    throttle.note(None)
    assert (throttle.allowance, throttle.open_for()) == (0, timedelta(seconds=10))
    throttle.pause(timedelta(seconds=3))  # never shortens
    clock.now += 10
    assert (throttle.allowance, throttle.is_tripped) == (None, False)


def test_a_pause_that_begins_while_another_ends_is_kept(
    throttle: Throttle, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttle.pause(timedelta(seconds=1))
    clock.now += 1
    open_for, calls = Throttle.open_for, []

    def pausing(self: Throttle) -> timedelta:
        found = open_for(self)
        if not calls:  # another thread, right after this thread has looked
            calls.append(self.pause(timedelta(seconds=5)))
        return found

    monkeypatch.setattr(Throttle, "open_for", pausing)
    assert throttle.allowance == 0
    assert throttle.is_tripped


def test_an_outage_during_a_pause_outlives_it(throttle: Throttle, clock: ManualClock) -> None:
    throttle.pause(timedelta(seconds=0.5))
    throttle.note(SinkUnavailable())
    clock.now += 0.5
    assert throttle.allowance == 0
    clock.now += 0.5
    assert throttle.allowance == 1
    throttle.note(None)
    assert throttle.allowance is None


def test_a_sink_that_fails_during_a_batch_pauses(throttle: Throttle) -> None:
    later = NotNow(after=timedelta(seconds=1))
    throttle.note(PartsFailed({3: SinkUnavailable(), 4: later, 5: later}))
    assert throttle.allowance == 0


def test_parts_without_an_attempt_end_no_pause(throttle: Throttle, clock: ManualClock) -> None:
    throttle.note(SinkUnavailable())
    clock.now += 1
    throttle.note(PartsFailed({0: NotNow(after=timedelta(0)), 1: InvalidJob()}))
    assert throttle.allowance == 1


@pytest.mark.parametrize(
    ("error", "parts", "works"),
    [
        (TypeError("raised before the sink was called"), 1, False),
        (SinkTransient(), 1, False),
        (SinkPermanent(), 1, True),
        (PartsFailed({5: InvalidJob()}), 10, True),
        (PartsFailed({0: InvalidJob(), 1: InvalidJob()}), 2, False),
        (PartsFailed({0: SinkPermanent()}), 1, True),
    ],
    ids=repr,
)
def test_only_a_response_of_the_sink_ends_a_pause(
    throttle: Throttle, clock: ManualClock, error: Exception, parts: int, works: bool
) -> None:
    throttle.note(SinkUnavailable())
    clock.now += 1
    throttle.note(error, parts=parts)
    assert throttle.is_tripped is not works


def test_batches_shrink_even_if_each_has_an_invalid_part(
    throttle: Throttle, clock: ManualClock
) -> None:
    throttle.note(SinkBusy())
    clock.now += 60
    assert throttle.stretch > 1
    for _ in range(100):
        throttle.note(PartsFailed({5: InvalidJob()}), parts=10_000)
    assert (throttle.stretch, throttle.is_tripped) == (1, False)
