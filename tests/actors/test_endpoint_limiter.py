"""The endpoint limiter: which deliveries may start, and when."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from formrelay.actors.webhooks.endpoint_state import EndpointLimits
from formrelay.actors.webhooks.limiter import EndpointDisabled, EndpointLimiter
from formrelay.core.errors import FormrelayError, NotNow, SinkPermanent, SinkTransient
from tests.support.clock import ManualClock

LOOP = asyncio.new_event_loop()
LIMITS = EndpointLimits(in_flight=2, failures=3, open_for=timedelta(seconds=30))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Delivery:
    """A delivery that lasts until the test ends it."""

    def __init__(self, limiter: EndpointLimiter, id: str = "a") -> None:
        self.has_started = False
        self.refusal: BaseException | None = None
        self.after: Callable[[], object] = bool
        self._end: asyncio.Future[None] = LOOP.create_future()
        self.task = LOOP.create_task(self._deliver(limiter, id))
        run_tasks()

    async def _deliver(self, limiter: EndpointLimiter, id: str) -> None:
        try:
            async with limiter.webhook_delivery(id):
                self.has_started = True
                await self._end
            self.after()  # the tasks that this wakes have not run yet
        except FormrelayError as error:
            self.refusal = error

    def end(self, error: BaseException | None = None) -> None:
        assert self.has_started
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)
        run_tasks()


def run_tasks() -> None:
    """Run the tasks of the event loop until all of them wait."""
    for _ in range(10):
        LOOP.run_until_complete(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def loop() -> Iterator[None]:
    yield
    for task in asyncio.all_tasks(LOOP):
        task.cancel()
    run_tasks()


@pytest.fixture
def limiter(clock: ManualClock) -> EndpointLimiter:
    """A limiter whose endpoint "a" has had a success, so it may get two deliveries at a time."""
    limiter = EndpointLimiter(LIMITS, clock=clock)
    deliver(limiter)
    return limiter


def deliver(limiter: EndpointLimiter, id: str = "a", error: BaseException | None = None) -> None:
    async def delivery() -> None:
        async with limiter.webhook_delivery(id):
            if error is not None:
                raise error

    LOOP.run_until_complete(delivery())


def fail(limiter: EndpointLimiter, times: int, *, id: str = "a", code: int = 500) -> None:
    for _ in range(times):
        with pytest.raises(SinkTransient):
            deliver(limiter, id, SinkTransient(code=code))


def wait_of(limiter: EndpointLimiter, id: str = "a") -> timedelta:
    """How long a delivery that starts now is deferred."""
    delivery = Delivery(limiter, id)
    assert isinstance(delivery.refusal, NotNow)
    return delivery.refusal.after


def test_deliveries_wait_for_a_busy_endpoint_but_not_for_others(limiter: EndpointLimiter) -> None:
    first, second = Delivery(limiter), Delivery(limiter)
    third, fourth = Delivery(limiter), Delivery(limiter)
    assert (first.has_started, second.has_started) == (True, True)
    assert (third.has_started, fourth.has_started) == (False, False)
    deliver(limiter, "b")
    second.end()
    assert (third.has_started, fourth.has_started) == (True, False)  # in the order of their arrival
    third.end()
    assert fourth.has_started


def test_a_new_endpoint_gets_one_delivery_and_another_waits(limiter: EndpointLimiter) -> None:
    first, second = Delivery(limiter, "new"), Delivery(limiter, "new")
    assert (first.has_started, second.has_started, second.refusal) == (True, False, None)
    wait_of(limiter, "new")
    first.end()
    assert second.has_started
    third, fourth = Delivery(limiter, "new"), Delivery(limiter, "new")
    assert (third.has_started, fourth.has_started) == (True, False)  # two after the first success


def test_a_failure_halves_the_concurrency_limit(limiter: EndpointLimiter) -> None:
    fail(limiter, 1)
    first, second = Delivery(limiter), Delivery(limiter)
    assert (first.has_started, second.has_started) == (True, False)


def test_a_delivery_that_would_wait_too_long_is_deferred_until_its_turn(
    limiter: EndpointLimiter, clock: ManualClock
) -> None:
    slow = Delivery(limiter), Delivery(limiter)
    clock.now += 4
    for delivery in slow:
        delivery.end()
    running = Delivery(limiter), Delivery(limiter)
    assert all(delivery.has_started for delivery in running)
    for turn in range(1, 31):  # a delivery takes about 1.4 s, and two run at a time
        assert 0.7 * turn <= wait_of(limiter).total_seconds() <= 1.1 * turn
    for _ in range(1000):
        assert wait_of(limiter) <= timedelta(seconds=90)


def test_a_throttle_defers_the_waiting_deliveries(limiter: EndpointLimiter) -> None:
    first, second, waiting = Delivery(limiter), Delivery(limiter), Delivery(limiter)
    first.end(SinkTransient(code=500))
    assert not waiting.has_started  # one at a time after a failure
    second.end(SinkTransient(code=429, retry_after=timedelta(hours=1)))
    assert isinstance(waiting.refusal, NotNow)
    assert waiting.refusal.after >= timedelta(hours=1)


def test_a_delivery_cancelled_while_it_waits_delays_no_other(limiter: EndpointLimiter) -> None:
    first, second = Delivery(limiter), Delivery(limiter)
    cancelled, after = Delivery(limiter), Delivery(limiter)
    cancelled.task.cancel()
    first.end()
    assert after.has_started
    assert not cancelled.has_started
    next_one = Delivery(limiter)
    second.end()
    after.end()
    assert next_one.has_started


def test_a_delivery_cancelled_at_its_turn_makes_room_for_the_next(limiter: EndpointLimiter) -> None:
    first, _second = Delivery(limiter), Delivery(limiter)
    cancelled, after = Delivery(limiter), Delivery(limiter)
    first.after = cancelled.task.cancel
    first.end()
    assert not cancelled.has_started
    assert after.has_started


def test_a_waiting_delivery_does_not_start_if_its_endpoint_is_disabled(
    limiter: EndpointLimiter,
) -> None:
    first, _second, waiting = Delivery(limiter), Delivery(limiter), Delivery(limiter)
    limiter.disable_locally("a")
    first.end()
    assert isinstance(waiting.refusal, EndpointDisabled)
    assert not waiting.has_started


def test_consecutive_failures_open_the_breaker_and_one_probe_closes_it(
    limiter: EndpointLimiter, clock: ManualClock
) -> None:
    fail(limiter, 2)
    deliver(limiter)  # a success: the failures are no longer in a row
    assert limiter.open_breakers() == 0
    fail(limiter, 3)
    assert timedelta(seconds=30) <= wait_of(limiter) <= timedelta(seconds=45)
    deliver(limiter, "b")
    clock.now += 30
    probe = Delivery(limiter)
    wait_of(limiter)  # only the probe may start
    assert limiter.open_breakers() == 1
    probe.end()
    assert limiter.open_breakers() == 0
    deliver(limiter)


def test_each_failed_probe_doubles_the_wait_up_to_the_maximum(
    limiter: EndpointLimiter, clock: ManualClock
) -> None:
    fail(limiter, 3)
    for seconds in (60, 120, 240, 480, 600, 600):
        clock.now += 600
        fail(limiter, 1)
        assert timedelta(seconds=seconds) <= wait_of(limiter) <= timedelta(seconds=seconds * 1.5)


def test_deliveries_in_flight_when_the_circuit_opens_are_no_probes(clock: ManualClock) -> None:
    limiter = EndpointLimiter(replace(LIMITS, in_flight=16), clock=clock)
    for _ in range(16):
        deliver(limiter)
    before = Delivery(limiter)
    fail(limiter, 3)
    before.end(SinkTransient(code=500))
    assert wait_of(limiter) <= timedelta(seconds=45)  # not opened again for twice as long
    clock.now += 30
    for _ in range(16):
        deliver(limiter)
    before = Delivery(limiter)
    fail(limiter, 3)
    clock.now += 30
    probe = Delivery(limiter)
    assert probe.has_started
    before.end(SinkTransient(code=500))
    wait_of(limiter)  # the probe is still in flight, so no other may start


def test_a_failure_rate_opens_the_circuit(limiter: EndpointLimiter, clock: ManualClock) -> None:
    for _ in range(10):
        deliver(limiter, "c")
        fail(limiter, 1, id="c")
    assert wait_of(limiter, "c") >= timedelta(seconds=30)
    for _ in range(9):
        deliver(limiter, "b")
        fail(limiter, 1, id="b")
    clock.now += 61  # the earlier deliveries are no longer in the window
    deliver(limiter, "b")
    fail(limiter, 1, id="b")
    deliver(limiter, "b")


def test_without_a_breaker_a_failing_endpoint_is_always_tried() -> None:
    limiter = EndpointLimiter(EndpointLimits(in_flight=2, failures=0))
    fail(limiter, 200)
    deliver(limiter)


@pytest.mark.parametrize("code", [429, 502, 504])
def test_a_throttled_endpoint_gets_no_delivery_until_its_retry_after(
    limiter: EndpointLimiter, clock: ManualClock, code: int
) -> None:
    with pytest.raises(SinkTransient):
        deliver(limiter, error=SinkTransient(code=code, retry_after=timedelta(hours=2)))
    assert wait_of(limiter) >= timedelta(hours=2)
    clock.now += 2 * 3600
    fail(limiter, 1, code=code)  # without Retry-After
    assert timedelta(seconds=5) <= wait_of(limiter) <= timedelta(seconds=7.5)


def test_a_later_response_does_not_shorten_a_throttle(limiter: EndpointLimiter) -> None:
    first, second = Delivery(limiter), Delivery(limiter)
    first.end(SinkTransient(code=429, retry_after=timedelta(hours=1)))
    second.end(SinkTransient(code=502))
    assert wait_of(limiter) >= timedelta(hours=1)


@pytest.mark.parametrize(
    "error",
    [SinkPermanent(code=400), FormrelayError(), KeyboardInterrupt(), NotNow(after=timedelta(1))],
)
def test_other_errors_do_not_open_the_circuit(
    limiter: EndpointLimiter, error: BaseException
) -> None:
    for _ in range(20):
        with suppress(type(error)):
            deliver(limiter, error=error)
    deliver(limiter)


def test_a_disabled_endpoint_gets_no_delivery(limiter: EndpointLimiter) -> None:
    limiter.disable_locally("a")
    with pytest.raises(EndpointDisabled, match="disabled"):
        deliver(limiter)
    deliver(limiter, "b")


def test_the_failure_rate_of_a_busy_endpoint_counts_its_latest_results(clock: ManualClock) -> None:
    limiter = EndpointLimiter(LIMITS, clock=clock)
    for _ in range(1000):
        deliver(limiter)

    def fail_every_second_time() -> None:
        for _ in range(150):  # within a minute
            deliver(limiter)
            fail(limiter, 1)

    with pytest.raises(NotNow):
        fail_every_second_time()


# -- memory of endpoints ---------------------------------------------------------------------


def test_a_healthy_idle_endpoint_takes_few_bytes(clock: ManualClock) -> None:
    limiter = EndpointLimiter(LIMITS, clock=clock)
    ids = [f"endpoint-{number}" for number in range(4000)]
    tracemalloc.start()
    try:
        for id in ids:
            deliver(limiter, id)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken / len(ids) < 250
    assert not limiter._endpoints  # objects would take twice as much memory


def test_a_healthy_idle_endpoint_is_remembered(clock: ManualClock) -> None:
    limiter = EndpointLimiter(replace(LIMITS, in_flight=4), clock=clock)
    for _ in range(2):
        delivery = Delivery(limiter)
        clock.now += 2
        delivery.end()
    deliveries = [Delivery(limiter) for _ in range(4)]
    assert [delivery.has_started for delivery in deliveries] == [True, True, True, False]
    # A delivery takes 2 s, which is too long to wait in memory.
    assert isinstance(deliveries[3].refusal, NotNow)


def test_successes_before_an_idle_time_still_count(clock: ManualClock) -> None:
    limiter = EndpointLimiter(LIMITS, clock=clock)
    for _ in range(15):
        deliver(limiter)
    for _ in range(10):  # of 35, less than half
        deliver(limiter)
        fail(limiter, 1)
    deliver(limiter)


def test_endpoints_in_use_or_refusing_are_never_forgotten(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.actors.webhooks.limiter._MAX_ENDPOINTS", 8)
    limiter = EndpointLimiter(LIMITS, clock=clock)
    deliver(limiter)
    first, second = Delivery(limiter), Delivery(limiter)
    fail(limiter, 3, id="open")
    fail(limiter, 1, id="throttled", code=429)
    for number in range(200):
        deliver(limiter, f"healthy-{number}")
        fail(limiter, 1, id=f"failing-{number}")
    third = Delivery(limiter)
    assert (first.has_started, second.has_started, third.has_started) == (True, True, False)
    wait_of(limiter, "open")
    wait_of(limiter, "throttled")
    assert len(limiter._idle) <= 8
    assert len(limiter._endpoints) <= 16


def test_sweeps_are_rare_if_no_endpoint_can_be_forgotten(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.actors.webhooks.limiter._MAX_ENDPOINTS", 8)
    limiter, sweeps = EndpointLimiter(LIMITS, clock=clock), []
    real = limiter._sweep
    monkeypatch.setattr(limiter, "_sweep", lambda now: (sweeps.append(now), real(now)))
    for number in range(100):
        fail(limiter, 1, id=f"throttled-{number}", code=429)
    assert len(limiter._endpoints) == 100
    assert len(sweeps) <= 50
    clock.now += 60
    for number in range(200):
        fail(limiter, 1, id=f"throttled-again-{number}", code=429)
        clock.now += 60
    assert len(limiter._endpoints) <= 100
