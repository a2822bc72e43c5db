"""``enqueue_many`` and replicas on Redis: a chunk is enqueued completely or not at all."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerRefused, NotReplicated
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import InvalidJob
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    broker = RedisBroker(redis_url, options=BrokerOptions())
    yield broker
    broker.close()


def actors_of(broker: RedisBroker, *queues: str) -> list[Any]:
    return [
        dramatiq.actor(print, broker=broker, queue_name=queue, actor_name=queue) for queue in queues
    ]


def test_large_messages_are_sent_in_chunks_of_a_megabyte(broker: RedisBroker, unique: str) -> None:
    (actor,) = actors_of(broker, unique)
    sizes: list[int] = []
    put = broker._put
    broker._put = lambda chunk: (sizes.append(sum(len(one.body) for one in chunk)), put(chunk))[1]  # type: ignore[method-assign]

    def messages() -> Iterator[Message[Any]]:
        for _ in range(60):
            yield actor.message("x" * 900_000)
        for _ in range(600):
            yield actor.message("x" * 1_500)

    tracemalloc.start()
    assert broker.enqueue_many(messages()) == 660
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(sizes) <= 1024 * 1024
    assert len(sizes) == 62
    # orjson allocates eight times the size of a long string while it encodes.
    assert peak < 40_000_000, f"{peak / 1e6:.0f} MB"
    assert broker.counts(unique).waiting == 660


def test_a_chunk_over_several_queues_is_refused_completely(
    redis_server: RedisServer, unique: str
) -> None:
    with redis.Redis.from_url(redis_server.url) as admin:
        rules = ["~dramatiq:good*", "~dramatiq:__*", "~formrelay:*", "+@all"]
        admin.execute_command("ACL", "SETUSER", "me", "on", ">pw", *rules)
        broker = RedisBroker(f"redis://me:pw@127.0.0.1:{redis_server.port}/0")
        good, bad = actors_of(broker, "good", "bad")
        with pytest.raises(BrokerRefused, match="permissions to access") as refused:
            broker.enqueue_many([good.message(1), bad.message(2), good.message(3)])
        assert refused.value.accepted == 0
        assert broker.counts("good").waiting == 0
        admin.config_set("maxmemory", 1)
        admin.execute_command("ACL", "SETUSER", "me", "~*")
        with pytest.raises(BrokerRefused, match="maxmemory"):
            broker.enqueue_many([good.message(1), bad.message(2)])
        admin.config_set("maxmemory", 0)
        assert [broker.counts(queue).waiting for queue in ("good", "bad")] == [0, 0]
        # Redis has no rollback; only a key of a wrong type can split a chunk.
        admin.set("dramatiq:bad.msgs", "no hash")
        with pytest.raises(BrokerRefused, match="1 messages for other queues are enqueued"):
            broker.enqueue_many([good.message(1), bad.message(2)])
        broker.close()


def test_the_error_has_the_number_of_messages_certainly_enqueued(
    broker: RedisBroker, unique: str
) -> None:
    (actor,) = actors_of(broker, unique)

    def messages() -> Iterator[Message[Any]]:
        for number in range(1_200):
            yield actor.message(number)
        yield actor.message(object())

    with pytest.raises(InvalidJob, match="the first 1000 messages of the call are enq") as error:
        broker.enqueue_many(messages())
    assert error.value.accepted == 1_000 == broker.counts(unique).waiting


def replica_of(master: RedisServer) -> RedisServer:
    replica = RedisServer()
    replica.start()
    with redis.Redis.from_url(replica.url) as client:
        client.replicaof("127.0.0.1", master.port)
    return replica


def test_send_waits_for_replicas_if_configured(redis_server: RedisServer, unique: str) -> None:
    def make(**options: Any) -> RedisBroker:
        return RedisBroker(redis_server.url, options=BrokerOptions(), **options)

    broker, plain = make(wait_replicas=1), make()
    (actor,) = actors_of(broker, unique)
    assert not any("min-replicas" in one for one in plain.weaknesses())
    assert any("REDIS_WAIT_REPLICAS is 1" in one for one in broker.weaknesses())
    assert not any("REDIS_WAIT_REPLICAS" in one for one in plain.weaknesses())
    replica = replica_of(redis_server)
    try:
        wait_until(lambda: _online(broker))
        actor.send(1)
        assert broker.enqueue_many([actor.message(2), actor.message(3)]) == 2
        with redis.Redis.from_url(replica.url) as copy:
            assert copy.llen(broker.keys.waiting(unique)) == 3, "send() returned too early"
        assert not any("replicas" in one.lower() for one in broker.weaknesses())
        assert any("min-replicas-to-write is 0" in one for one in plain.weaknesses())
        broker.client.config_set("min-replicas-to-write", 1)
        assert not any("min-replicas" in one for one in plain.weaknesses())
        broker.client.config_set("min-replicas-to-write", 0)
        replica.pause()
        began = time.monotonic()
        with pytest.raises(NotReplicated, match="it is on the master, will run, and can be lost"):
            actor.send(4)
        assert 0.9 < time.monotonic() - began < 20
        replica.resume()
        assert broker.counts(unique).waiting == 4
    finally:
        replica.close()
        broker.close()
        plain.close()


def _online(broker: RedisBroker) -> bool:
    found = broker.client.info("replication").get("slave0", {})
    return isinstance(found, dict) and found.get("state") == "online"
