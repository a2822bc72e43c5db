"""The contract of stores of claims, in memory and in a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.state import StateRedis, make_claims
from formrelay.state.claims import Claims, MemoryClaims, SheetFacts
from formrelay.state.redis.claims import RedisClaims
from formrelay.state.redis.connection import connect_redis
from tests.state.stores import state_of
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

Make = Callable[..., Claims]


def in_redis(url: str, **times: timedelta) -> RedisClaims:
    return RedisClaims(state_of(url), **times)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "memory":
        return MemoryClaims
    url = request.getfixturevalue("redis_url")
    return lambda **times: in_redis(url, **times)


@pytest.fixture
def store(make: Make) -> Claims:
    return make()


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Small limits, for both stores."""

    class Limits(dict[str, Any]):
        def __setitem__(self, name: str, value: Any) -> None:
            monkeypatch.setattr(f"formrelay.state.claims.{name}", value)
            monkeypatch.setattr(f"formrelay.state.redis.claims.{name}", value)

    return Limits()


def test_a_first_claim_finds_nothing(store: Claims) -> None:
    claim = store.claim("s", "t1", ["a", "b"])
    assert claim.unknown == {"a", "b"}
    assert (claim.done, claim.open, claim.evict) == (frozenset(), (), ())


def test_a_claim_returns_the_open_tokens_of_its_jobs(store: Claims) -> None:
    store.claim("s", "t1", ["a", "b"])
    store.claim("s", "t2", ["c"])
    store.claim("other", "t9", ["a"])
    claim = store.claim("s", "t3", ["b", "c", "d"])
    assert set(claim.open) == {"t1", "t2"}
    assert claim.unknown == {"d"}
    assert set(store.claim("s", "t4", ["b"]).open) == {"t1", "t3"}
    assert store.claim("s", "t5", ["a"]).open == ("t1",)


def test_jobs_of_an_applied_call_are_done(store: Claims) -> None:
    store.claim("s", "t1", ["a", "b"])
    store.claim("s", "t2", ["b", "c"])
    store.settle("s", SheetFacts(applied=["t2"], void=["t1"]))
    claim = store.claim("s", "t3", ["a", "b", "c"])
    assert claim.done == {"b", "c"}
    assert claim.open == ()
    assert claim.unknown == frozenset()
    # A claim of jobs that are done leaves nothing behind.
    store.claim("s", "t4", ["b"])
    assert store.claim("s", "t5", ["a"]).open == ("t3",)


def test_a_refused_call_leaves_known_jobs_without_tokens(store: Claims) -> None:
    store.claim("s", "t1", ["a"])
    store.settle("s", SheetFacts(refused=["t1"]))
    claim = store.claim("s", "t2", ["a"])
    assert (claim.open, claim.unknown, claim.done) == ((), frozenset(), frozenset())


def test_jobs_that_were_found_are_done(store: Claims) -> None:
    store.claim("s", "t1", ["a", "b"])
    store.settle("s", SheetFacts(done=["a"]))
    store.settle("s", SheetFacts(refused=["t1"]))
    claim = store.claim("s", "t2", ["a", "b"])
    assert claim.done == {"a"}
    assert claim.open == ()


def test_a_place_has_open_tokens_and_the_order_of_its_newest_job(store: Claims) -> None:
    assert store.claim("s", "t1", ["a"], {"r": 5}).newest == {"r": 0}
    claim = store.claim("s", "t2", ["b"], {"r": 9, "q": 1})
    assert (claim.open, claim.newest) == (("t1",), {"r": 0, "q": 0})
    store.settle("s", SheetFacts(applied=["t2"], void=["t1"]))
    claim = store.claim("s", "t3", ["a"], {"r": 5})
    assert (claim.open, claim.newest) == ((), {"r": 9})
    store.settle("s", SheetFacts(applied=["t3"]))
    claim = store.claim("s", "t4", ["c"], {"r": 10})
    assert (claim.open, claim.newest) == ((), {"r": 9})
    store.settle("s", SheetFacts(refused=["t4"]))
    assert store.claim("s", "t5", ["c"], {"r": 10, "q": 2}).newest == {"r": 9, "q": 1}
    # A claim of jobs that are done leaves nothing behind.
    assert store.claim("s", "t6", ["b"], {"q": 3}).done == {"b"}
    assert store.claim("s", "t7", ["d"], {"q": 4}).open == ("t5",)


def test_settling_twice_changes_nothing(store: Claims) -> None:
    store.claim("s", "t1", ["a"])
    for _ in range(2):
        store.settle("s", SheetFacts(applied=["t1"], void=["t0"]))
    store.settle("s", SheetFacts(refused=["t1"], void=["t1"]))
    assert store.claim("s", "t2", ["a"]).done == {"a"}


def test_only_calls_that_no_other_call_fences_are_evicted_at_once(
    store: Claims, limits: dict[str, Any]
) -> None:
    limits["KEEP_ENTRIES"] = 0
    store.claim("s", "t1", ["a"])
    store.claim("s", "t2", ["a"])  # creates the entry of t1
    store.claim("s", "t3", ["b"])
    store.settle("s", SheetFacts(applied=["t2", "t3"], void=["t1"]))
    assert set(store.claim("s", "t4", ["c"]).evict) == {"t2", "t3"}
    store.settle("s", SheetFacts(evicted=["t2"]))
    assert store.claim("s", "t5", ["d"]).evict == ("t3",)
    store.claim("s", "t6", ["e"])
    store.claim("s", "t7", ["e"])
    store.settle("s", SheetFacts(applied=["t6"]))  # found by t7, so its entry is needed
    assert store.claim("s", "t8", ["f"]).evict == ("t3",)


def test_fences_are_evicted_when_no_call_can_arrive_any_more(
    make: Make, limits: dict[str, Any]
) -> None:
    limits["KEEP_ENTRIES"] = 0
    limits["FENCE"] = timedelta(milliseconds=30)
    store = make()
    store.claim("s", "t1", ["a"])
    store.claim("s", "t2", ["a"])
    store.settle("s", SheetFacts(applied=["t2"], void=["t1"]))
    wait_until(lambda: set(store.claim("s", "t3", ["b"]).evict) == {"t1", "t2"})


def test_the_last_entries_stay(store: Claims, limits: dict[str, Any]) -> None:
    limits["KEEP_ENTRIES"] = 3
    for number in range(5):
        store.claim("s", f"t{number}", [f"job-{number}"])
        store.settle("s", SheetFacts(applied=[f"t{number}"]))
    assert len(store.claim("s", "t", ["x"]).evict) == 2


def test_a_process_without_a_shared_store_leaves_one_entry_behind() -> None:
    store = make_claims(None)
    for number in range(5):
        evict = store.claim("s", f"t{number}", [f"job-{number}"]).evict
        assert len(evict) == min(number, 1)
        store.settle("s", SheetFacts(applied=[f"t{number}"], evicted=evict))


def test_forgotten_tokens_of_other_jobs_are_fenced_when_there_are_many(
    make: Make, limits: dict[str, Any]
) -> None:
    limits["MANY_OPEN"] = 3
    limits["FENCE"] = timedelta(milliseconds=30)
    store = make()
    for number in range(4):
        store.claim("s", f"t{number}", [f"job-{number}"])
    wait_until(lambda: len(store.claim("s", "new", ["x"]).open) >= 4)
    claim = store.claim("s", "newer", ["y"])
    assert {"t0", "t1", "t2", "t3"} <= set(claim.open)
    assert "newer" not in claim.open


def test_done_and_open_jobs_are_forgotten_in_time(make: Make) -> None:
    soon = timedelta(milliseconds=50)
    store = make(keep_open=timedelta(hours=1), keep_done=soon)
    store.claim("s", "t1", ["a"])
    store.settle("s", SheetFacts(applied=["t1"]))
    wait_until(lambda: store.claim("s", "t2", ["a"]).unknown == {"a"})
    store = make(keep_open=soon, keep_done=soon)
    store.claim("z", "t1", ["a"])
    wait_until(lambda: "t1" not in store.claim("z", "t2", ["a"]).open)


def test_of_simultaneous_claims_each_sees_those_before_it(store: Claims) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: store.claim("s", f"t{n}", ["a"]), range(8)))
    assert sorted(len(claim.open) for claim in claims) == list(range(8))


def test_a_repeated_claim_gets_the_same_answer(redis_url: str) -> None:
    """Only in Redis: a call whose answer was lost is repeated."""
    store = in_redis(redis_url)
    store.claim("s", "t1", ["a"])
    first = store.claim("s", "t2", ["a", "b"])
    assert store.claim("s", "t2", ["a", "b"]) == first
    first = store.claim("s", "t3", ["b"], {"r": 2})
    assert store.claim("s", "t3", ["b"], {"r": 2}) == first


def test_every_key_in_redis_expires_and_names_nothing(redis_url: str) -> None:
    client = connect_redis(redis_url, timeout=timedelta(seconds=1))
    store = make_claims(StateRedis(client, "here"))
    assert isinstance(store, RedisClaims)
    store.claim("sheet-1", "t1", ["ann@example.com"])
    store.settle("sheet-1", SheetFacts(applied=["t1"]))
    store.claim("sheet-1", "t2", ["bob"])
    keys = client.keys("*")
    assert len(keys) == 4
    assert all(key.startswith(f"dramatiq{RedisClaims.prefix}".encode()) for key in keys)
    assert all(client.pttl(key) > 0 for key in keys)
    stored = b"".join(b"".join(pair) for pair in client.hgetall(min(keys)).items())
    assert b"ann@" not in stored


def test_an_unavailable_store_raises_an_error(redis_server: RedisServer) -> None:
    store = in_redis(redis_server.url)
    store.claim("s", "t1", ["a"])
    redis_server.kill()
    for call in (
        lambda: store.claim("s", "t2", ["a"]),
        lambda: store.settle("s", SheetFacts(applied=["t1"])),
    ):
        with pytest.raises(BrokerUnavailable, match="expected Redis at"):
            call()


def test_done_jobs_can_be_asked_for(store: Claims) -> None:
    assert store.done("s", ["a"]) == frozenset()
    store.claim("s", "t1", ["a", "b"])
    store.claim("s", "t2", ["c"])
    store.settle("s", SheetFacts(applied=["t1"]))
    assert store.done("s", ["a", "b", "c", "d"]) == {"a", "b"}
    assert store.done("other", ["a"]) == frozenset()
    assert store.done("s", []) == frozenset()
