"""How much a sink takes at present."""

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


def test_nothing_is_held_at_first(throttle: Throttle) -> None:
    assert (throttle.allowance, throttle.open_for(), throttle.stretch) == (None, timedelta(0), 1)


@pytest.mark.parametrize("kind", [SinkUnavailable, SinkBusy, SinkUnready])
def test_a_sink_that_takes_nothing_is_left_alone_then_asked_with_one_message(
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


def test_what_fails_while_it_is_held_makes_it_no_longer(
    throttle: Throttle, clock: ManualClock
) -> None:
    for _ in range(5):  # batches that were under way when it was found out
        throttle.note(SinkUnavailable())
    assert throttle.open_for() == timedelta(seconds=1)


def test_a_sink_that_says_how_long_is_left_alone_for_that(throttle: Throttle) -> None:
    throttle.note(SinkBusy(retry_after=timedelta(seconds=10)))
    assert throttle.open_for() == timedelta(seconds=10)


def test_batches_of_a_busy_sink_grow_and_shrink_again(
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


SAYS_NOTHING = [
    SinkTransient(),
    InvalidJob(),
    NotNow(after=timedelta(0)),
    PartsFailed({0: InvalidJob(), 1: SinkTransient()}),
]


@pytest.mark.parametrize("error", SAYS_NOTHING, ids=repr)
def test_what_says_nothing_of_the_sink_changes_nothing(
    throttle: Throttle, clock: ManualClock, error: Exception
) -> None:
    throttle.note(error)
    assert throttle.allowance is None
    throttle.note(SinkUnavailable())
    clock.now += 1
    throttle.note(error)
    assert throttle.allowance == 1


@pytest.mark.parametrize("error", [SinkPermanent(), PartsFailed({0: SinkPermanent()})], ids=repr)
def test_a_sink_that_refuses_a_job_works(
    throttle: Throttle, clock: ManualClock, error: Exception
) -> None:
    throttle.note(SinkUnavailable())
    clock.now += 1
    throttle.note(error)
    assert throttle.allowance is None


def test_an_attempt_that_was_begun_before_ends_no_hold(
    throttle: Throttle, clock: ManualClock
) -> None:
    # Eight threads and TOO_MANY_PARTS: some inserts pass while others are refused.
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


def test_a_sink_that_goes_away_in_the_middle_of_a_batch_is_left_alone(throttle: Throttle) -> None:
    later = NotNow(after=timedelta(seconds=1))
    throttle.note(PartsFailed({3: SinkUnavailable(), 4: later, 5: later}))
    assert throttle.allowance == 0


def test_parts_that_were_not_tried_say_nothing(throttle: Throttle, clock: ManualClock) -> None:
    throttle.note(SinkUnavailable())
    clock.now += 1
    throttle.note(PartsFailed({0: NotNow(after=timedelta(0)), 1: InvalidJob()}))
    assert throttle.allowance == 1


@pytest.mark.parametrize(
    ("error", "parts", "works"),
    [
        (TypeError("of the actor, before it asked anybody"), 1, False),
        (SinkTransient(), 1, False),
        (SinkPermanent(), 1, True),
        (PartsFailed({5: InvalidJob()}), 10, True),
        (PartsFailed({0: InvalidJob(), 1: InvalidJob()}), 2, False),
        (PartsFailed({0: SinkPermanent()}), 1, True),
    ],
    ids=repr,
)
def test_only_who_had_an_answer_knows_that_it_works(
    throttle: Throttle, clock: ManualClock, error: Exception, parts: int, works: bool
) -> None:
    throttle.note(SinkUnavailable())
    clock.now += 1
    throttle.note(error, parts=parts)
    assert throttle.is_tripped is not works


def test_batches_shrink_again_though_each_has_an_invalid_part(
    throttle: Throttle, clock: ManualClock
) -> None:
    throttle.note(SinkBusy())
    clock.now += 60
    assert throttle.stretch > 1
    for _ in range(100):
        throttle.note(PartsFailed({5: InvalidJob()}), parts=10_000)
    assert (throttle.stretch, throttle.is_tripped) == (1, False)
