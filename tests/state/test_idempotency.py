"""What every idempotency store promises, in memory and in a real Redis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.state import MemoryIdempotencyStore
from formrelay.state.idempotency import Held, IdempotencyStore, Known
from formrelay.state.redis.connection import address, connect
from formrelay.state.redis.idempotency import PREFIX, RedisIdempotencyStore
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

LONG, SHORT = timedelta(hours=1), timedelta(milliseconds=150)


def in_redis(url: str) -> RedisIdempotencyStore:
    return RedisIdempotencyStore(connect(url, timeout=timedelta(seconds=1)), address(url))


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def ledger(request: pytest.FixtureRequest) -> IdempotencyStore:
    if request.param == "memory":
        return MemoryIdempotencyStore()
    return in_redis(request.getfixturevalue("redis_url"))


def test_a_free_key_is_locked_and_a_locked_one_is_held(ledger: IdempotencyStore) -> None:
    assert ledger.begin("a", "one", LONG) is None
    found = ledger.begin("a", "two", LONG)
    assert isinstance(found, Held)
    assert timedelta(minutes=59) < found.ends_in <= LONG
    assert ledger.begin("b", "two", LONG) is None


@pytest.mark.parametrize("result", [b"null", b'{"a":"\\u0000\xc3\xa9"}', b""], ids=repr)
def test_a_result_is_known_to_whoever_comes_after(ledger: IdempotencyStore, result: bytes) -> None:
    ledger.begin("a", "one", LONG)
    assert ledger.finish("a", "one", result, LONG)
    assert ledger.begin("a", "two", LONG) == Known(result)
    assert ledger.begin("a", "one", LONG) == Known(result)


def test_what_was_let_go_of_is_free_again(ledger: IdempotencyStore) -> None:
    ledger.begin("a", "one", LONG)
    ledger.release("a", "one")
    assert ledger.begin("a", "two", LONG) is None


def test_a_lock_ends_by_itself_and_so_does_a_result(ledger: IdempotencyStore) -> None:
    ledger.begin("a", "one", SHORT)
    wait_until(lambda: ledger.begin("a", "two", SHORT) is None)
    ledger.finish("a", "two", b"1", SHORT)
    assert ledger.begin("a", "three", SHORT) == Known(b"1")
    wait_until(lambda: ledger.begin("a", "three", LONG) is None)


def test_a_lock_that_is_renewed_lasts(ledger: IdempotencyStore) -> None:
    ledger.begin("a", "one", SHORT)
    assert ledger.renew("a", "one", LONG)
    found = ledger.begin("a", "two", SHORT)
    assert isinstance(found, Held)
    assert found.ends_in > SHORT


def test_nobody_touches_what_is_another_s(ledger: IdempotencyStore) -> None:
    ledger.begin("a", "one", SHORT)
    wait_until(lambda: ledger.begin("a", "two", LONG) is None)
    assert not ledger.renew("a", "one", LONG)
    ledger.release("a", "one")
    assert not ledger.finish("a", "one", b"1", LONG)
    assert isinstance(ledger.begin("a", "three", LONG), Held)
    assert ledger.finish("a", "two", b"2", LONG)
    ledger.release("a", "two")
    assert not ledger.renew("a", "two", SHORT)
    assert not ledger.finish("a", "one", b"1", LONG)
    assert ledger.begin("a", "three", LONG) == Known(b"2")


def test_a_result_whose_lock_has_ended_is_known_where_nobody_else_began(
    ledger: IdempotencyStore,
) -> None:
    ledger.begin("a", "one", timedelta(milliseconds=1))
    ledger.begin("b", "one", timedelta(milliseconds=5))
    wait_until(lambda: ledger.begin("b", "two", LONG) is None)  # so that of a has ended as well
    assert ledger.finish("a", "one", b"1", LONG)
    assert ledger.begin("a", "two", LONG) == Known(b"1")


def test_of_many_at_one_time_one_has_the_lock(ledger: IdempotencyStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        for key in map(str, range(20)):
            found: list[Any] = list(
                pool.map(lambda n, key=key: ledger.begin(key, str(n), LONG), range(16))
            )
            assert found.count(None) == 1
            assert sum(isinstance(one, Held) for one in found) == 15


def test_a_ledger_in_memory_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    from formrelay.state import idempotency as module

    monkeypatch.setattr(module, "_MOST", 10)
    ledger = MemoryIdempotencyStore()
    for number in range(11):
        ledger.begin(str(number), "one", LONG)
        ledger.finish(str(number), "one", b"1", LONG)
    assert ledger.begin("0", "two", LONG) is None
    assert ledger.begin("10", "two", LONG) == Known(b"1")


def test_a_ledger_that_is_away_says_so(redis_server: RedisServer) -> None:
    ledger = in_redis(redis_server.url)
    ledger.begin("a", "one", LONG)
    redis_server.kill()
    for call in (
        lambda: ledger.begin("a", "one", LONG),
        lambda: ledger.renew("a", "one", LONG),
        lambda: ledger.finish("a", "one", b"", LONG),
        lambda: ledger.release("a", "one"),
    ):
        with pytest.raises(BrokerUnavailable, match="expected Redis at"):
            call()


def test_every_key_in_redis_ends_some_day(redis_url: str) -> None:
    ledger = in_redis(redis_url)
    ledger.begin("a", "one", LONG)
    ledger.begin("b", "one", LONG)
    ledger.finish("b", "one", b"1", LONG)
    client = connect(redis_url, timeout=timedelta(seconds=1))
    keys = client.keys("*")
    assert sorted(keys) == [f"dramatiq{PREFIX}{key}".encode() for key in "ab"]
    assert all(0 < client.pttl(key) <= 3_600_000 for key in keys)
