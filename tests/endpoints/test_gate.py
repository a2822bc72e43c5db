"""Which deliveries may begin, second by second."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from formrelay.core.errors import FormrelayError, NotNow, SinkPermanent, SinkTransient
from formrelay.core.later import Later, Steps, run
from formrelay.endpoints import EndpointDisabled, Gate, Limits
from tests.support.clock import ManualClock

LIMITS = Limits(in_flight=2, failures=3, opens_for=timedelta(seconds=30))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Visit(Later[None]):
    """A delivery to an endpoint that goes on until the test ends it."""

    def __init__(self, gate: Gate, id: str = "a") -> None:
        self.is_there = False
        self.refusal: BaseException | None = None
        self._error: BaseException | None = None
        self._steps = Steps(self._visit(gate, id))
        self._go_on()

    async def _visit(self, gate: Gate, id: str) -> None:
        async with gate.delivery(id):
            self.is_there = True
            await self

    def _go_on(self) -> None:
        try:
            waits_for = self._steps.advance()
        except FormrelayError as error:
            self.refusal = error
            return
        if waits_for is not None:
            waits_for.start(self._go_on)

    def start(self, resume: Callable[[], object]) -> None:
        self._resume = resume

    def result(self) -> None:
        if self._error is not None:
            raise self._error

    def end(self, error: BaseException | None = None) -> None:
        assert self.is_there
        self._error = error
        with suppress(BaseException) if error else nullcontext():
            self._resume()


@pytest.fixture
def gate(clock: ManualClock) -> Gate:
    """One whose endpoint "a" has worked before, and so may have two at a time."""
    gate = Gate(LIMITS, clock=clock)
    deliver(gate)
    return gate


def deliver(gate: Gate, id: str = "a", error: BaseException | None = None) -> None:
    async def visit() -> None:
        async with gate.delivery(id):
            if error is not None:
                raise error

    run(visit())


def fail(gate: Gate, times: int, *, id: str = "a", code: int = 500) -> None:
    for _ in range(times):
        with pytest.raises(SinkTransient):
            deliver(gate, id, SinkTransient(code=code))


def wait_of(gate: Gate, id: str = "a") -> timedelta:
    """How long a delivery that is refused now is put off."""
    visit = Visit(gate, id)
    assert isinstance(visit.refusal, NotNow)
    return visit.refusal.after


def test_a_busy_endpoint_is_waited_for_and_the_others_go_on(gate: Gate) -> None:
    first, second = Visit(gate), Visit(gate)
    third, fourth = Visit(gate), Visit(gate)
    assert (first.is_there, second.is_there) == (True, True)
    assert (third.is_there, fourth.is_there) == (False, False)
    deliver(gate, "b")
    second.end()
    assert (third.is_there, fourth.is_there) == (True, False)  # in the order in which they came
    third.end()
    assert fourth.is_there


def test_an_endpoint_that_never_answered_gets_one_at_a_time_and_one_waits(gate: Gate) -> None:
    first, second = Visit(gate, "new"), Visit(gate, "new")
    assert (first.is_there, second.is_there, second.refusal) == (True, False, None)
    wait_of(gate, "new")
    first.end()
    assert second.is_there
    third, fourth = Visit(gate, "new"), Visit(gate, "new")
    assert (third.is_there, fourth.is_there) == (True, False)  # it answers: two, and no more


def test_a_failure_halves_what_an_endpoint_may_have(gate: Gate) -> None:
    fail(gate, 1)
    first, second = Visit(gate), Visit(gate)
    assert (first.is_there, second.is_there) == (True, False)


def test_who_would_wait_too_long_is_put_off_until_its_turn_will_come(
    gate: Gate, clock: ManualClock
) -> None:
    slow = Visit(gate), Visit(gate)
    clock.now += 4
    for visit in slow:
        visit.end()
    at_work = Visit(gate), Visit(gate)
    assert all(visit.is_there for visit in at_work)
    for turn in range(1, 31):  # it takes 1.4 s or so, two at a time
        assert 0.7 * turn <= wait_of(gate).total_seconds() <= 1.1 * turn
    for _ in range(1000):
        assert wait_of(gate) <= timedelta(seconds=90)


def test_who_waits_in_line_is_let_go_when_the_breaker_opens(gate: Gate) -> None:
    first, second, waiting = Visit(gate), Visit(gate), Visit(gate)
    first.end(SinkTransient(code=500))
    assert not waiting.is_there  # a failure: one at a time
    second.end(SinkTransient(code=429, retry_after=timedelta(hours=1)))
    assert isinstance(waiting.refusal, NotNow)
    assert waiting.refusal.after >= timedelta(hours=1)


def test_who_waits_in_line_is_not_let_through_to_a_disabled_endpoint(gate: Gate) -> None:
    first, _second, waiting = Visit(gate), Visit(gate), Visit(gate)
    gate.disable_here("a")
    first.end()
    assert isinstance(waiting.refusal, EndpointDisabled)
    assert not waiting.is_there


def test_failures_in_a_row_open_the_breaker_and_one_probe_closes_it(
    gate: Gate, clock: ManualClock
) -> None:
    fail(gate, 2)
    deliver(gate)  # one that worked: they count in a row
    fail(gate, 3)
    assert timedelta(seconds=30) <= wait_of(gate) <= timedelta(seconds=45)
    deliver(gate, "b")
    clock.now += 30
    probe = Visit(gate)
    wait_of(gate)  # one alone tries
    probe.end()
    deliver(gate)


def test_each_probe_that_fails_doubles_the_wait_up_to_the_longest(
    gate: Gate, clock: ManualClock
) -> None:
    fail(gate, 3)
    for seconds in (60, 120, 240, 480, 600, 600):
        clock.now += 600
        fail(gate, 1)
        assert timedelta(seconds=seconds) <= wait_of(gate) <= timedelta(seconds=seconds * 1.5)


def test_those_under_way_when_it_opens_are_no_probes(clock: ManualClock) -> None:
    gate = Gate(replace(LIMITS, in_flight=16), clock=clock)
    for _ in range(16):
        deliver(gate)
    before = Visit(gate)
    fail(gate, 3)
    before.end(SinkTransient(code=500))
    assert wait_of(gate) <= timedelta(seconds=45)  # not opened twice, for twice as long
    clock.now += 30
    for _ in range(16):
        deliver(gate)
    before = Visit(gate)
    fail(gate, 3)
    clock.now += 30
    probe = Visit(gate)
    assert probe.is_there
    before.end(SinkTransient(code=500))
    wait_of(gate)  # the probe is still under way: nobody else


def test_a_rate_of_failures_opens_it_too(gate: Gate, clock: ManualClock) -> None:
    for _ in range(10):
        deliver(gate, "c")
        fail(gate, 1, id="c")
    assert wait_of(gate, "c") >= timedelta(seconds=30)
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


def test_a_later_answer_does_not_shorten_what_one_asked_for(gate: Gate) -> None:
    first, second = Visit(gate), Visit(gate)
    first.end(SinkTransient(code=429, retry_after=timedelta(hours=1)))
    second.end(SinkTransient(code=502))
    assert wait_of(gate) >= timedelta(hours=1)


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
    gate.disable_here("a")
    with pytest.raises(EndpointDisabled, match="disabled"):
        deliver(gate)
    deliver(gate, "b")


def test_a_busy_endpoint_is_judged_by_its_latest_results(clock: ManualClock) -> None:
    gate = Gate(LIMITS, clock=clock)
    for _ in range(1000):
        deliver(gate)

    def fail_every_second_time() -> None:
        for _ in range(150):  # in the same minute
            deliver(gate)
            fail(gate, 1)

    with pytest.raises(NotNow):
        fail_every_second_time()


# -- how much is remembered ------------------------------------------------------------------


def test_a_healthy_idle_endpoint_takes_few_bytes(clock: ManualClock) -> None:
    gate = Gate(LIMITS, clock=clock)
    ids = [f"endpoint-{number}" for number in range(4000)]
    tracemalloc.start()
    try:
        for id in ids:
            deliver(gate, id)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken / len(ids) < 250
    assert not gate._endpoints  # an object each would take twice as much


def test_a_healthy_idle_endpoint_is_remembered(clock: ManualClock) -> None:
    gate = Gate(replace(LIMITS, in_flight=4), clock=clock)
    for _ in range(2):
        visit = Visit(gate)
        clock.now += 2
        visit.end()
    visits = [Visit(gate) for _ in range(4)]
    assert [visit.is_there for visit in visits] == [True, True, True, False]
    # It takes 2 s, so nobody waits for it in memory.
    assert isinstance(visits[3].refusal, NotNow)


def test_deliveries_that_worked_count_when_the_endpoint_was_idle_since(clock: ManualClock) -> None:
    gate = Gate(LIMITS, clock=clock)
    for _ in range(15):
        deliver(gate)
    for _ in range(10):  # of 35, less than half
        deliver(gate)
        fail(gate, 1)
    deliver(gate)


def test_of_too_many_endpoints_those_in_use_or_refused_are_kept(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.endpoints.gate._MOST_ENDPOINTS", 8)
    gate = Gate(LIMITS, clock=clock)
    deliver(gate)
    first, second = Visit(gate), Visit(gate)
    fail(gate, 3, id="open")
    fail(gate, 1, id="throttled", code=429)
    for number in range(200):
        deliver(gate, f"healthy-{number}")
        fail(gate, 1, id=f"failing-{number}")
    third = Visit(gate)
    assert (first.is_there, second.is_there, third.is_there) == (True, True, False)
    wait_of(gate, "open")
    wait_of(gate, "throttled")
    assert len(gate._idle) <= 8
    assert len(gate._endpoints) <= 16


def test_when_none_can_be_forgotten_it_is_not_looked_at_each_time(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.endpoints.gate._MOST_ENDPOINTS", 8)
    gate, sweeps = Gate(LIMITS, clock=clock), []
    real = gate._sweep
    monkeypatch.setattr(gate, "_sweep", lambda now: (sweeps.append(now), real(now)))
    for number in range(100):
        fail(gate, 1, id=f"throttled-{number}", code=429)
    assert len(gate._endpoints) == 100
    assert len(sweeps) <= 50
    clock.now += 60
    for number in range(200):
        fail(gate, 1, id=f"throttled-again-{number}", code=429)
        clock.now += 60
    assert len(gate._endpoints) <= 100
