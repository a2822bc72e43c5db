"""The contract of idempotency stores, in memory and in a real Redis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.state import MemoryIdempotencyStore
from formrelay.state.idempotency import Finished, IdempotencyStore, Running
from formrelay.state.redis.connection import connect_redis
from formrelay.state.redis.idempotency import RedisIdempotencyStore
from tests.state.stores import state_of
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

LONG, SHORT = timedelta(hours=1), timedelta(milliseconds=150)


def in_redis(url: str) -> RedisIdempotencyStore:
    return RedisIdempotencyStore(state_of(url))


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest) -> IdempotencyStore:
    if request.param == "memory":
        return MemoryIdempotencyStore()
    return in_redis(request.getfixturevalue("redis_url"))


def test_a_free_key_is_locked_and_a_locked_key_is_refused(store: IdempotencyStore) -> None:
    assert store.begin("a", "one", LONG) is None
    found = store.begin("a", "two", LONG)
    assert isinstance(found, Running)
    assert timedelta(minutes=59) < found.ends_in <= LONG
    assert store.begin("b", "two", LONG) is None


@pytest.mark.parametrize("result", [b"null", b'{"a":"\\u0000\xc3\xa9"}', b""], ids=repr)
def test_a_result_is_returned_to_later_owners(store: IdempotencyStore, result: bytes) -> None:
    store.begin("a", "one", LONG)
    assert store.finish("a", "one", result, LONG)
    assert store.begin("a", "two", LONG) == Finished(result)
    assert store.begin("a", "one", LONG) == Finished(result)


def test_a_released_key_is_free(store: IdempotencyStore) -> None:
    store.begin("a", "one", LONG)
    store.release("a", "one")
    assert store.begin("a", "two", LONG) is None


def test_locks_and_results_expire(store: IdempotencyStore) -> None:
    store.begin("a", "one", SHORT)
    wait_until(lambda: store.begin("a", "two", SHORT) is None)
    store.finish("a", "two", b"1", SHORT)
    assert store.begin("a", "three", SHORT) == Finished(b"1")
    wait_until(lambda: store.begin("a", "three", LONG) is None)


def test_a_renewed_lock_does_not_expire(store: IdempotencyStore) -> None:
    store.begin("a", "one", SHORT)
    assert store.renew("a", "one", LONG)
    found = store.begin("a", "two", SHORT)
    assert isinstance(found, Running)
    assert found.ends_in > SHORT


def test_another_owner_cannot_change_a_lock(store: IdempotencyStore) -> None:
    store.begin("a", "one", SHORT)
    wait_until(lambda: store.begin("a", "two", LONG) is None)
    assert not store.renew("a", "one", LONG)
    store.release("a", "one")
    assert not store.finish("a", "one", b"1", LONG)
    assert isinstance(store.begin("a", "three", LONG), Running)
    assert store.finish("a", "two", b"2", LONG)
    store.release("a", "two")
    assert not store.renew("a", "two", SHORT)
    assert not store.finish("a", "one", b"1", LONG)
    assert store.begin("a", "three", LONG) == Finished(b"2")


def test_a_result_after_an_expired_lock_is_stored_if_the_key_is_free(
    store: IdempotencyStore,
) -> None:
    store.begin("a", "one", timedelta(milliseconds=1))
    store.begin("b", "one", timedelta(milliseconds=5))
    wait_until(lambda: store.begin("b", "two", LONG) is None)  # and that of a expired before
    assert store.finish("a", "one", b"1", LONG)
    assert store.begin("a", "two", LONG) == Finished(b"1")


def test_only_one_of_many_simultaneous_owners_gets_the_lock(store: IdempotencyStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        for key in map(str, range(20)):
            found: list[Any] = list(
                pool.map(lambda n, key=key: store.begin(key, str(n), LONG), range(16))
            )
            assert found.count(None) == 1
            assert sum(isinstance(one, Running) for one in found) == 15


def test_a_store_in_memory_drops_the_oldest_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    from formrelay.state import idempotency as module

    monkeypatch.setattr(module, "_MAX_ENTRIES", 10)
    store = MemoryIdempotencyStore()
    for number in range(11):
        store.begin(str(number), "one", LONG)
        store.finish(str(number), "one", b"1", LONG)
    assert store.begin("0", "two", LONG) is None
    assert store.begin("10", "two", LONG) == Finished(b"1")


def test_an_unavailable_store_raises_an_error(redis_server: RedisServer) -> None:
    store = in_redis(redis_server.url)
    store.begin("a", "one", LONG)
    redis_server.kill()
    for call in (
        lambda: store.begin("a", "one", LONG),
        lambda: store.renew("a", "one", LONG),
        lambda: store.finish("a", "one", b"", LONG),
        lambda: store.release("a", "one"),
    ):
        with pytest.raises(BrokerUnavailable, match="expected Redis at"):
            call()


def test_every_key_in_redis_expires(redis_url: str) -> None:
    store = in_redis(redis_url)
    store.begin("a", "one", LONG)
    store.begin("b", "one", LONG)
    store.finish("b", "one", b"1", LONG)
    client = connect_redis(redis_url, timeout=timedelta(seconds=1))
    keys = client.keys("*")
    assert sorted(keys) == [f"dramatiq{RedisIdempotencyStore.prefix}{key}".encode() for key in "ab"]
    assert all(0 < client.pttl(key) <= 3_600_000 for key in keys)
