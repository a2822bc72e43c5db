"""Which deliveries may begin, second by second."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from datetime import timedelta

import pytest
from tests.support.clock import ManualClock

from formrelay.core.errors import FormrelayError, NotNow, SinkPermanent, SinkTransient
from formrelay.endpoints import EndpointDisabled, Gate, Limits

LIMITS = Limits(in_flight=2, failures=3, opens_for=timedelta(seconds=30))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def gate(clock: ManualClock) -> Gate:
    return Gate(LIMITS, clock=clock)


def deliver(gate: Gate, id: str = "a", error: BaseException | None = None) -> None:
    with gate.delivery(id):
        if error is not None:
            raise error


def fail(gate: Gate, times: int, *, id: str = "a", code: int = 500) -> None:
    for _ in range(times):
        with pytest.raises(SinkTransient):
            deliver(gate, id, SinkTransient(code=code))


def wait_of(gate: Gate, id: str = "a") -> timedelta:
    """How long a delivery that is refused now is put off."""
    with pytest.raises(NotNow) as refusal:
        deliver(gate, id)
    return refusal.value.after


def test_a_busy_endpoint_is_left_to_those_at_work_and_the_others_go_on(gate: Gate) -> None:
    with ExitStack() as at_work:
        at_work.enter_context(gate.delivery("a"))
        at_work.enter_context(gate.delivery("a"))
        assert timedelta(milliseconds=200) <= wait_of(gate) <= timedelta(milliseconds=300)
        deliver(gate, "b")
    deliver(gate)


def test_a_slow_and_busy_endpoint_is_asked_again_about_when_it_will_be_free(
    gate: Gate, clock: ManualClock
) -> None:
    with gate.delivery("a"):
        clock.now += 4
    with gate.delivery("a"), gate.delivery("a"):
        assert timedelta(seconds=4) <= wait_of(gate) <= timedelta(seconds=6)


def test_failures_in_a_row_open_the_breaker_and_one_probe_closes_it(
    gate: Gate, clock: ManualClock
) -> None:
    fail(gate, 2)
    deliver(gate)  # one that worked: they count in a row
    fail(gate, 3)
    assert timedelta(seconds=30) <= wait_of(gate) <= timedelta(seconds=45)
    deliver(gate, "b")
    clock.now += 30
    with gate.delivery("a"):
        wait_of(gate)  # one alone tries
    deliver(gate)
    with gate.delivery("a"), gate.delivery("a"):
        wait_of(gate)  # busy, as ever


def test_each_probe_that_fails_doubles_the_wait_up_to_the_longest(
    gate: Gate, clock: ManualClock
) -> None:
    fail(gate, 3)
    for seconds in (60, 120, 240, 480, 600, 600):
        clock.now += 600
        fail(gate, 1)
        assert timedelta(seconds=seconds) <= wait_of(gate) <= timedelta(seconds=seconds * 1.5)


def test_those_under_way_when_it_opens_are_no_probes(gate: Gate, clock: ManualClock) -> None:
    with suppress(SinkTransient), gate.delivery("a"):
        fail(gate, 3)
        raise SinkTransient(code=500)
    assert wait_of(gate) <= timedelta(seconds=45)  # not opened twice, for twice as long
    clock.now += 30
    deliver(gate)
    with ExitStack() as probe:
        with suppress(SinkTransient), gate.delivery("a"):
            fail(gate, 3)
            clock.now += 30
            probe.enter_context(gate.delivery("a"))
            raise SinkTransient(code=500)
        wait_of(gate)  # the probe is still under way: nobody else


def test_a_rate_of_failures_opens_it_too(gate: Gate, clock: ManualClock) -> None:
    for _ in range(10):
        deliver(gate)
        fail(gate, 1)
    assert wait_of(gate) >= timedelta(seconds=30)
    for _ in range(9):
        deliver(gate, "b")
        fail(gate, 1, id="b")
    clock.now += 61  # those were long ago
    deliver(gate, "b")
    fail(gate, 1, id="b")
    deliver(gate, "b")


def test_without_a_breaker_it_is_tried_however_often_it_fails() -> None:
    gate = Gate(Limits(in_flight=2, failures=0))
    fail(gate, 200)
    deliver(gate)


@pytest.mark.parametrize("code", [429, 502, 504])
def test_one_that_wants_fewer_is_left_alone_for_as_long_as_it_says(
    gate: Gate, clock: ManualClock, code: int
) -> None:
    with pytest.raises(SinkTransient):
        deliver(gate, error=SinkTransient(code=code, retry_after=timedelta(hours=2)))
    assert wait_of(gate) >= timedelta(hours=2)
    clock.now += 2 * 3600
    fail(gate, 1, code=code)  # it does not say
    assert timedelta(seconds=5) <= wait_of(gate) <= timedelta(seconds=7.5)


@pytest.mark.parametrize(
    "error",
    [SinkPermanent(code=400), FormrelayError(), KeyboardInterrupt(), NotNow(after=timedelta(1))],
)
def test_what_is_not_the_endpoints_failure_does_not_open_it(
    gate: Gate, error: BaseException
) -> None:
    for _ in range(20):
        with suppress(type(error)):
            deliver(gate, error=error)
    deliver(gate)


def test_a_disabled_endpoint_is_called_no_more(gate: Gate) -> None:
    gate.disabled = frozenset({"a"})
    with pytest.raises(EndpointDisabled, match="disabled"):
        deliver(gate)
    deliver(gate, "b")
