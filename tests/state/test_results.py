"""Results of jobs in Redis."""

from __future__ import annotations

from datetime import timedelta

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.state import StateRedis, make_result_store
from formrelay.state.redis.connection import connect_redis

HOUR = timedelta(hours=1)


def test_a_result_is_replaced_and_expires(redis_url: str) -> None:
    client = connect_redis(redis_url, timeout=timedelta(seconds=5))
    store = make_result_store(StateRedis(client, "here", "ns"))
    assert store is not None
    assert store.get("one") is None
    store.put("one", b"first", HOUR)
    store.put("one", b"second", HOUR)
    assert store.get("one") == b"second"
    (key,) = client.keys()
    assert key == b"ns:__results__.one"
    assert 3_590_000 < client.pttl(key) <= 3_600_000
    client.close()


def test_without_redis_there_is_no_store_and_without_an_answer_an_error() -> None:
    assert make_result_store(None) is None
    client = connect_redis("redis://127.0.0.1:1/0", timeout=timedelta(seconds=1))
    store = make_result_store(StateRedis(client, "127.0.0.1:1"))
    assert store is not None
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        store.get("one")
