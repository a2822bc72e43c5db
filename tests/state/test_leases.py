"""The contract of leases, in memory and in a real Redis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.state import make_leases
from formrelay.state.leases import Leases
from tests.state.stores import state_of
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

LONG, SHORT = timedelta(hours=1), timedelta(milliseconds=150)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest) -> Leases:
    if request.param == "memory":
        return make_leases(None)
    return make_leases(state_of(request.getfixturevalue("redis_url")))


def test_a_number_of_owners_hold_leases_until_they_let_go(store: Leases) -> None:
    assert store.held("account") == 0
    assert [store.hold("account", owner, 3, LONG) for owner in "abcd"] == [True, True, True, False]
    assert store.hold("other", "d", 3, LONG)
    assert store.hold("account", "a", 3, LONG)  # extended
    assert store.held("account") == 3
    store.let_go("account", "b")
    store.let_go("account", "unknown")
    assert store.hold("account", "d", 3, LONG)
    assert not store.hold("account", "b", 3, LONG)
    assert not store.hold("account", "b", 1, LONG)  # a lower number takes none away


def test_the_lease_of_a_dead_owner_ends(store: Leases) -> None:
    assert store.hold("account", "dead", 2, SHORT)
    assert store.hold("account", "alive", 2, SHORT)
    assert store.hold("account", "alive", 2, LONG)
    assert not store.hold("account", "new", 2, LONG)
    wait_until(lambda: store.hold("account", "new", 2, LONG))
    assert store.held("account") == 2
    assert not store.hold("account", "dead", 2, LONG)


def test_many_threads_hold_as_many_as_there_are(store: Leases) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda n: store.hold("account", str(n), 5, LONG), range(64)))
    assert found.count(True) == 5


def test_keys_in_redis_expire_with_the_last_lease(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    store = make_leases(state)
    store.hold("ann@example.org", "a", 2, LONG)
    store.hold("ann@example.org", "b", 2, SHORT)
    (key,) = state.client.keys("*")
    assert key.startswith(b"ns:__leases__.")
    assert b"ann" not in key
    assert 3_590_000 < state.client.pttl(key) <= 3_600_000


def test_an_unavailable_store_raises_an_error(redis_server: RedisServer) -> None:
    store = make_leases(state_of(redis_server.url))
    store.held("a")
    redis_server.kill()
    for call in (
        lambda: store.hold("a", "b", 1, LONG),
        lambda: store.let_go("a", "b"),
        lambda: store.held("a"),
    ):
        with pytest.raises(BrokerUnavailable, match="expected Redis at"):
            call()
