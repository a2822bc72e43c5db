"""The contract of rate limits, in memory and in a real Redis."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formrelay.brokers import BrokerUnavailable
from formrelay.core.errors import ConfigError
from formrelay.state import make_rate_limits
from formrelay.state.rate_limits import CostTooHigh, Limit, MemoryRateLimits
from formrelay.state.redis.rate_limits import RedisRateLimits
from tests.state.stores import set_clock, state_of, use_clock
from tests.support.clock import ManualClock
from tests.support.command import clean_environment, start_python
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = 1_800_000_000.0


class Timed:
    """A store and the time it has."""

    def __init__(self, store: Any, move: Callable[[float], None]) -> None:
        self.store = store
        self.now = START
        self._move = move
        self.to(START)

    def to(self, now: float) -> None:
        self.now = now
        self._move(now)

    def after(self, wait: timedelta) -> None:
        self.to(self.now + wait.total_seconds())


def in_memory() -> Timed:
    clock = ManualClock(START)
    return Timed(MemoryRateLimits(clock=clock), lambda now: setattr(clock, "now", now))


def in_redis(url: str) -> Timed:
    state = state_of(url)
    store = RedisRateLimits(state)
    use_clock(store, state.client, "rate_limits.lua")
    return Timed(store, lambda now: set_clock(state.client, now))


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def timed(request: pytest.FixtureRequest) -> Timed:
    if request.param == "memory":
        return in_memory()
    return in_redis(request.getfixturevalue("redis_url"))


def take_all(timed: Timed, key: str, limit: Limit) -> int:
    """How many can be taken at this time."""
    count = 0
    while timed.store.take([(key, limit)]) is None:
        count += 1
    return count


def test_a_full_bucket_is_taken_and_refills_evenly(timed: Timed) -> None:
    limit = Limit(6, MINUTE)
    assert take_all(timed, "a", limit) == 6
    assert timed.store.take([("a", limit)]) == 10 * SECOND
    timed.after(9 * SECOND)
    assert timed.store.take([("a", limit)]) == SECOND
    timed.after(SECOND)
    assert take_all(timed, "a", limit) == 1
    timed.after(DAY)
    assert take_all(timed, "a", limit) == 6
    assert take_all(timed, "b", limit) == 6


def test_after_the_wait_it_can_be_taken(timed: Timed) -> None:
    limit = Limit(7, MINUTE)
    assert timed.store.take([("a", limit)], 7) is None
    wait = timed.store.take([("a", limit)], 5)
    assert wait is not None
    timed.after(wait - timedelta(microseconds=1))
    assert timed.store.take([("a", limit)], 5) == timedelta(microseconds=1)
    timed.after(timedelta(microseconds=1))
    assert timed.store.take([("a", limit)], 5) is None


def test_all_are_taken_or_none(timed: Timed) -> None:
    minute, day = Limit(2, MINUTE), Limit(3, DAY)
    both = [("minute", minute), ("day", day)]
    assert timed.store.take(both, 2) is None
    assert timed.store.take(both) == 30 * SECOND
    timed.after(MINUTE)
    assert timed.store.take(both, [2, 1]) is None  # the refused call took nothing from the day
    timed.after(MINUTE)
    wait = timed.store.take(both, [2, 1])
    assert wait is not None
    assert wait > timedelta(hours=7)
    assert take_all(timed, "minute", minute) == 2


def test_a_closed_key_is_refused_until_its_time_also_without_a_limit(timed: Timed) -> None:
    limit = Limit(5, MINUTE)
    timed.store.close_until("a", 10 * SECOND)
    timed.store.close_until("a", 4 * SECOND)  # never shortens
    assert timed.store.take([("a", limit)]) == 10 * SECOND
    assert timed.store.take([("a", None)]) == 10 * SECOND
    assert timed.store.take([("b", limit), ("a", None)], 5) == 10 * SECOND
    assert take_all(timed, "b", limit) == 5  # nothing was taken while a was closed
    timed.after(10 * SECOND)
    assert timed.store.take([("a", None)]) is None
    assert take_all(timed, "a", limit) == 5


def test_a_closure_keeps_what_was_taken_and_lasts_a_day_at_most(timed: Timed) -> None:
    limit = Limit(5, MINUTE)
    assert timed.store.take([("a", limit)], 5) is None
    timed.store.close_until("a", 6 * SECOND)
    assert timed.store.take([("a", limit)]) == 12 * SECOND
    timed.after(6 * SECOND)
    assert timed.store.take([("a", limit)]) == 6 * SECOND
    timed.store.close_until("a", timedelta(days=4000))
    assert timed.store.take([("a", limit)]) == DAY


def test_a_clock_that_is_set_back_makes_nobody_wait_longer_than_a_refill(timed: Timed) -> None:
    limit = Limit(6, MINUTE)
    assert timed.store.take([("a", limit)], 6) is None
    timed.store.close_until("b", SECOND)
    if isinstance(timed.store, MemoryRateLimits):
        return  # by the monotonic clock
    timed.to(START - 86_400 * 30)
    assert timed.store.take([("a", limit)]) == 10 * SECOND
    assert timed.store.take([("b", limit)]) == DAY


def test_a_changed_limit_keeps_the_number_that_was_taken(timed: Timed) -> None:
    assert timed.store.take([("a", Limit(100, DAY))], 40) is None
    assert timed.store.take([("a", Limit(100, MINUTE))], 61) is not None
    assert timed.store.take([("a", Limit(100, MINUTE))], 60) is None
    assert timed.store.take([("b", Limit(100, DAY))], 90) is None
    lower = Limit(10, MINUTE)
    assert timed.store.take([("b", lower)]) == 6 * SECOND
    timed.after(6 * SECOND)
    assert take_all(timed, "b", lower) == 1


def test_whoever_has_taken_does_not_take_again(timed: Timed) -> None:
    limit = Limit(2, DAY)
    assert timed.store.take([("ann", limit)], once="job 1") is None
    assert timed.store.take([("ann", limit)], once="job 1") is None  # the job is retried
    assert timed.store.take([("ann", limit)], once="job 2") is None
    assert timed.store.take([("ann", limit)], once="job 3") is not None
    assert timed.store.take([("ann", limit)], once="job 3") is not None
    assert timed.store.take([("ann", limit)], once="job 2") is None
    timed.store.close_until("ann", MINUTE)
    assert timed.store.take([("ann", limit)], once="job 2") == MINUTE


def test_a_limit_is_never_faster_than_it_says() -> None:
    for number in range(1, 200):
        assert Limit(number, SECOND).interval * number >= 1_000_000


def test_wrong_costs_are_refused_and_never_wait(timed: Timed) -> None:
    with pytest.raises(CostTooHigh, match=r"at most 30 \(the limit is 30 in 60 s.*got 31") as info:
        timed.store.take([("ann@example.org", Limit(30, MINUTE))], 31)
    assert "ann" not in str(info.value)
    with pytest.raises(CostTooHigh, match="would never be free"):
        timed.store.take([("a", Limit(100, MINUTE, burst=3))], 10**30)
    for cost in (0, -1):
        with pytest.raises(ValueError, match="cost of 1 or more"):
            timed.store.take([("a", Limit(30, MINUTE))], cost)
    with pytest.raises(ValueError, match="a key twice"):
        timed.store.take([("a", Limit(30, MINUTE)), ("a", None)])
    with pytest.raises(ValueError, match="a cost for each of 1 keys, got 2"):
        timed.store.take([("a", Limit(30, MINUTE))], [1, 2])
    assert timed.store.take([]) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, MINUTE), "number of a rate limit to be 1 or more"),
        ((1, timedelta(0)), "up to ten years"),
        ((1, timedelta(days=40_000)), "up to ten years"),
        ((1, 60), "timedelta"),
        ((2, timedelta(microseconds=1)), "1,000,000 a second"),
        ((5, MINUTE, 0), "burst of a rate limit"),
        ((1, timedelta(days=300), 1000), "refill within ten years"),
    ],
)
def test_a_wrong_limit_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Limit(*arguments)


def test_a_limit_for_a_quota_has_a_bucket_and_a_rate_that_fit_into_it() -> None:
    assert Limit.at_most(2_000, DAY) == Limit(1_801, DAY, 200)
    assert Limit.at_most(1, DAY) == Limit(1, DAY, 1)
    assert Limit.at_most(30, MINUTE, burst=30) == Limit(1, MINUTE, 30)
    with pytest.raises(ConfigError, match="number"):
        Limit.at_most(5, DAY, burst=6)


class Model:
    """A bucket whose level rises, in microseconds of refill."""

    def __init__(self, limit: Limit) -> None:
        self.full = limit.capacity * limit.interval
        self.interval = limit.interval
        self.level = self.full
        self.closed_for = 0

    def pass_by(self, micros: int) -> None:
        self.level = min(self.full, self.level + micros)
        self.closed_for = max(0, self.closed_for - micros)

    def wait(self, cost: int) -> int:
        return max(self.closed_for, cost * self.interval - self.level)


LIMITS = st.builds(
    Limit,
    st.integers(1, 20),
    st.integers(50, 10**8).map(lambda micros: timedelta(microseconds=micros)),
    st.none() | st.integers(1, 20),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 10**8)),
        st.tuples(st.just("close"), st.sampled_from("abc"), st.integers(0, 10**7)),
        st.tuples(
            st.just("take"), st.dictionaries(st.sampled_from("abc"), st.integers(1, 8), min_size=1)
        ),
    ),
    max_size=40,
)


def agrees_with_the_model(timed: Timed, limits: list[Limit], steps: list[Any], run: str) -> None:
    names = {name: f"{run}{name}" for name in "abc"}
    models = dict(zip("abc", map(Model, limits), strict=True))
    by_name = dict(zip("abc", limits, strict=True))
    now = 10**15
    taken: dict[str, list[tuple[int, int]]] = {name: [] for name in "abc"}
    timed.to(now / 1_000_000)
    for what, *arguments in steps:
        if what == "pass":
            now += arguments[0]
            timed.to(now / 1_000_000)
            for model in models.values():
                model.pass_by(arguments[0])
        elif what == "close":
            name, micros = arguments
            timed.store.close_until(names[name], timedelta(microseconds=micros))
            models[name].closed_for = max(models[name].closed_for, micros)
        else:
            costs = {name: min(cost, by_name[name].capacity) for name, cost in arguments[0].items()}
            wait = timed.store.take(
                [(names[name], by_name[name]) for name in costs], list(costs.values())
            )
            expected = max(models[name].wait(cost) for name, cost in costs.items())
            assert (wait or timedelta(0)) == timedelta(microseconds=max(0, expected))
            if wait is None:
                for name, cost in costs.items():
                    models[name].level -= cost * models[name].interval
                    taken[name].append((now, cost))
    for name, limit in by_name.items():
        for start, _ in taken[name]:
            window = start + limit.per // timedelta(microseconds=1)
            inside = sum(cost for at, cost in taken[name] if start <= at < window)
            assert inside <= limit.capacity + limit.number - 1


@given(limits=st.lists(LIMITS, min_size=3, max_size=3), steps=STEPS)
def test_any_calls_in_memory_agree_with_a_simple_model(limits: Any, steps: Any) -> None:
    agrees_with_the_model(in_memory(), limits, steps, "")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(LIMITS, min_size=3, max_size=3), steps=STEPS)
def test_any_calls_in_redis_agree_with_a_simple_model(
    redis_url: str, limits: Any, steps: Any
) -> None:
    timed = in_redis(redis_url)
    timed.store._prefix += os.urandom(4).hex()
    agrees_with_the_model(timed, limits, steps, "")
    timed.store._script.registered_client.close()


def test_buckets_in_memory_that_are_full_again_are_removed() -> None:
    timed = in_memory()
    store = timed.store
    for number in range(1500):
        store.take([(str(number), Limit(5, MINUTE))])
        store.close_until(f"closed {number}", MINUTE)
    timed.after(MINUTE)
    for _ in range(1000):
        store.take([("one", Limit(5, MINUTE))])
    assert len(store._buckets) <= 2


def test_every_key_in_redis_expires_and_has_no_address(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    store = make_rate_limits(state)
    store.take([("ann@example.org", Limit(2, timedelta(hours=2)))])
    store.close_until("example.org", MINUTE)
    keys = state.client.keys("*")
    assert len(keys) == 2
    assert all(
        key.startswith(f"ns{RedisRateLimits.prefix}".encode()) and b"example" not in key
        for key in keys
    )
    assert sorted(state.client.pttl(key) > 61_000 for key in keys) == [False, True]
    assert all(0 < state.client.pttl(key) <= 3_600_000 for key in keys)
    store.take([("short", Limit(1, timedelta(milliseconds=30)))])
    wait_until(lambda: len(state.client.keys("*")) == 2)
    store.take([("b", Limit(2, MINUTE))], once="bob@example.org")
    (once,) = [key for key in state.client.keys("*") if b"once" in key]
    assert b"bob" not in once
    assert 0 < state.client.pttl(once) <= 3 * 86_400_000


def test_many_threads_take_as_many_as_there_are(redis_url: str) -> None:
    store = make_rate_limits(state_of(redis_url))
    limits = [("account", Limit(30, DAY)), ("domain", Limit(45, DAY))]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: store.take(limits), range(100)))
    assert found.count(None) == 30
    assert store.take([("domain", limits[1][1])], 15) is None
    assert store.take([("domain", limits[1][1])]) is not None


def test_two_processes_never_exceed_a_quota_together(redis_url: str, tmp_path: Path) -> None:
    quota, per = 20, 1.0
    module = Path(__file__).with_name("taker.py")
    arguments = (str(module), redis_url, "account", str(quota), str(per), "4")
    programs = [
        start_python(
            *arguments, cwd=tmp_path, env=clean_environment(), log=tmp_path / f"{number}.log"
        )
        for number in range(2)
    ]
    assert [program.wait(60) for program in programs] == [0, 0]
    lines = [(tmp_path / f"{number}.log").read_text().split("\n") for number in range(2)]
    assert all(len(of_one) > 1 for of_one in lines)  # both took some
    times = sorted(tuple(map(int, line.split())) for of_one in lines for line in of_one if line)
    assert len(times) > 2 * quota  # a bucket, and what it got back
    for start, _ in times:
        # Those that certainly ran within the window.
        inside = [one for one in times if start <= one[0] and one[1] < start + per * 1_000_000]
        assert len(inside) <= quota


def test_an_unavailable_store_raises_an_error(redis_server: RedisServer) -> None:
    store = make_rate_limits(state_of(redis_server.url))
    store.close_until("a", MINUTE)
    redis_server.kill()
    for call in (
        lambda: store.take([("a", Limit(1, MINUTE))]),
        lambda: store.close_until("a", MINUTE),
    ):
        with pytest.raises(BrokerUnavailable, match="expected Redis at"):
            call()


def book(timed: Timed, job: str, limit: Limit, *, most: timedelta = HOUR) -> timedelta | None:
    found: timedelta | None = timed.store.take([("a", limit)], once=job, book=most)
    return found


def test_turns_come_in_the_order_of_their_bookings_and_each_waits_once(timed: Timed) -> None:
    limit = Limit(6, MINUTE, 2)
    waits = [book(timed, f"job {number}", limit) for number in range(5)]
    assert waits == [None, None, 10 * SECOND, 20 * SECOND, 30 * SECOND]
    assert book(timed, "job 4", limit) == 30 * SECOND  # asks early: keeps its turn
    timed.after(10 * SECOND)
    assert book(timed, "new", limit) == 30 * SECOND  # behind those that wait
    assert book(timed, "job 2", limit) is None
    timed.after(20 * SECOND)
    assert [book(timed, f"job {number}", limit) for number in (4, 3)] == [None, None]
    assert [book(timed, f"job {number}", limit) for number in (4, 3)] == [None, None]  # retried
    timed.after(10 * SECOND)
    assert book(timed, "new", limit) is None


def test_a_turn_that_nobody_used_in_time_is_booked_anew(timed: Timed) -> None:
    limit = Limit(6, MINUTE, 1)
    assert book(timed, "one", limit) is None
    assert [book(timed, f"late {n}", limit) for n in range(3)] == [
        10 * SECOND,
        20 * SECOND,
        30 * SECOND,
    ]
    timed.after(HOUR)  # all workers were down: not all turns at once
    assert [book(timed, f"late {n}", limit) for n in range(3)] == [None, 10 * SECOND, 20 * SECOND]


def test_turns_come_after_a_closure_and_not_all_at_once(timed: Timed) -> None:
    limit = Limit(6, MINUTE, 1)
    timed.store.close_until("a", MINUTE)
    waits = [book(timed, f"job {number}", limit) for number in range(3)]
    assert waits == [MINUTE, MINUTE + 10 * SECOND, MINUTE + 20 * SECOND]
    timed.after(MINUTE)
    assert book(timed, "job 0", limit) is None
    timed.store.close_until("a", MINUTE)  # closed again
    timed.after(10 * SECOND)
    assert book(timed, "job 1", limit) == 50 * SECOND


def test_turns_are_booked_for_a_limited_time(timed: Timed) -> None:
    limit = Limit(6, MINUTE, 1)
    waits = [book(timed, f"job {number}", limit, most=15 * SECOND) for number in range(4)]
    assert waits == [None, 10 * SECOND, 20 * SECOND, 20 * SECOND]
    timed.after(20 * SECOND)
    assert book(timed, "job 3", limit, most=15 * SECOND) is None  # first come, first served
    assert book(timed, "job 2", limit, most=15 * SECOND) == 10 * SECOND
    timed.store.close_until("closed", MINUTE)
    assert timed.store.take([("closed", None)], once="x", book=HOUR) == MINUTE
