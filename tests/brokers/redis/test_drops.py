"""Idle connections dropped by a load balancer or NAT are replaced without errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import dramatiq
import pytest
import redis

from formrelay.actors.webhooks.redis_registry import RedisRegistry
from formrelay.actors.webhooks.registry import EndpointRecord
from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerUnavailable
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.state.idempotency import Finished
from formrelay.state.redis.client import NotAsked
from formrelay.state.redis.connection import connect_redis, translated
from formrelay.state.redis.idempotency import RedisIdempotencyStore
from tests.support.proxy import Proxy

pytestmark = [
    pytest.mark.redis,
    # An argument that the oldest redis-py requires and the newest no longer accepts.
    pytest.mark.filterwarnings("ignore:Call to 'get_connection'"),
]


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with Proxy(urlsplit(redis_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def broker(proxy: Proxy) -> Iterator[RedisBroker]:
    broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}/0", options=BrokerOptions())
    yield broker
    broker.close()


@pytest.fixture
def actor(broker: RedisBroker, unique: str) -> dramatiq.Actor[..., Any]:
    return dramatiq.actor(print, broker=broker, queue_name=unique)


def open_connections(broker: RedisBroker, count: int) -> None:
    """Leave ``count`` idle connections in the pool."""
    pool = broker.client.connection_pool
    taken = [pool.get_connection("PING") for _ in range(count)]
    for connection in taken:
        pool.release(connection)


@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("is_old", [True, False], ids=["checked", "unchecked"])
def test_a_send_over_a_dropped_connection_is_repeated_on_a_new_one(
    broker: RedisBroker, proxy: Proxy, actor: Any, is_reset: bool, is_old: bool
) -> None:
    open_connections(broker, 5)
    proxy.forget(is_reset=is_reset)
    if is_old:  # idle for so long that each is checked with PING before its next use
        for connection in broker.client.connection_pool._available_connections:
            connection.next_health_check = -1
    for _ in range(3):
        actor.send()
    assert broker.counts(actor.queue_name).waiting == 3
    assert proxy.accepted == 6, "all idle connections are closed at once"


def test_a_command_that_cannot_be_repeated_uses_a_checked_connection(
    broker: RedisBroker, proxy: Proxy, unique: str
) -> None:
    open_connections(broker, 2)
    for connection in broker.client.connection_pool._available_connections:
        connection.next_health_check = -1
    proxy.forget()
    broker.commands.count_death(unique, b"id")
    assert broker.client.hgetall(broker.keys.suspects(unique)) == {b"id": b"1"}


@pytest.mark.parametrize("delay", [None, 60_000], ids=["now", "later"])
def test_a_send_whose_reply_is_lost_enqueues_one_message(
    broker: RedisBroker, proxy: Proxy, actor: Any, delay: int | None
) -> None:
    actor.send()
    proxy.lose_reply_to(b"EVALSHA")
    sent = actor.send_with_options(delay=delay)
    assert proxy.lost.is_set()
    found = broker.counts(actor.queue_name)
    assert (found.waiting, found.scheduled) == ((2, 0) if delay is None else (1, 1))
    assert broker.inspector.find(sent.message_id) is not None


@pytest.mark.parametrize("state", ["in flight", "dead"])
def test_a_repeated_send_finds_its_message_in_any_state(
    broker: RedisBroker, actor: Any, unique: str, state: str
) -> None:
    sent = actor.send()
    id, keys, client = sent.message_id, broker.keys, broker.client
    body = client.hget(keys.bodies(unique), id)
    if state == "in flight":
        client.lrem(keys.waiting(unique), 0, id)
    else:
        client.delete(keys.bodies(unique), keys.waiting(unique))
        client.hset(keys.dead_bodies(unique), id, body)
    broker.commands.run("enqueue", unique, [0, 1, id, "", "", body])
    assert client.llen(keys.waiting(unique)) == 0
    # Another body with the same id is another message, and so is the same body in a new call.
    broker.commands.run("enqueue", unique, [0, 1, id, "", "", body + b" "])
    assert client.llen(keys.waiting(unique)) == 1
    broker.commands.run("enqueue", unique, [0, 0, id, "", "", body])
    assert client.llen(keys.waiting(unique)) == 2


def test_a_repeated_call_with_duplicate_messages_enqueues_each_once(
    broker: RedisBroker, proxy: Proxy, actor: Any
) -> None:
    message = actor.message()
    for needle in (b"EVALSHA", b"nothing"):
        proxy.lose_reply_to(needle)
        broker.enqueue_many([message] * 9)
        assert proxy.lost.is_set() is (needle == b"EVALSHA")
        assert broker.counts(actor.queue_name).waiting == (9 if needle == b"EVALSHA" else 18)
    proxy.forget()
    other = actor.message()
    broker.enqueue_many([other] * 9)
    assert broker.counts(actor.queue_name).waiting == 27


def test_a_chunk_of_several_queues_whose_reply_is_lost_is_enqueued_once(
    broker: RedisBroker, proxy: Proxy, actor: Any, unique: str
) -> None:
    other = dramatiq.actor(print, broker=broker, queue_name=f"{unique}-2", actor_name="other")
    proxy.lose_reply_to(b"EXEC")
    messages = [one.message(number) for number in range(20) for one in (actor, other)]
    assert broker.enqueue_many(messages) == 40
    assert proxy.lost.is_set()
    assert [broker.counts(one.queue_name).waiting for one in (actor, other)] == [20, 20]


def test_a_send_without_a_reply_fails_and_the_next_send_works(redis_url: str, unique: str) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(urlsplit(redis_url).port or 0))
        url = f"redis://127.0.0.1:{proxy.port}/0?socket_timeout=1"
        broker = RedisBroker(url, options=BrokerOptions(connect_timeout=timedelta(seconds=1)))
        stack.callback(broker.close)
        actor: Any = dramatiq.actor(print, broker=broker, queue_name=unique)
        open_connections(broker, 4)
        proxy.swallow(is_for_new=False)
        with pytest.raises(BrokerUnavailable, match="Timeout"):
            actor.send()
        idle = broker.client.connection_pool._available_connections
        assert [one for one in idle if one._sock is not None] == [], "each would time out"
        actor.send()
        assert broker.counts(unique).waiting == 1


def test_a_repeated_send_without_a_server_raises(
    broker: RedisBroker, proxy: Proxy, actor: Any
) -> None:
    actor.send()
    proxy.forget()
    proxy.refuse()
    with pytest.raises(BrokerUnavailable):
        actor.send()


def test_concurrent_senders_all_get_a_new_connection(
    broker: RedisBroker, proxy: Proxy, actor: Any
) -> None:
    open_connections(broker, 8)
    proxy.forget()
    errors: list[Exception] = []
    barrier = threading.Barrier(8)

    def send() -> None:
        barrier.wait()
        try:
            for _ in range(5):
                actor.send()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert broker.counts(actor.queue_name).waiting == 40


def test_a_forked_child_and_its_parent_both_get_a_new_connection(
    broker: RedisBroker, proxy: Proxy, actor: Any
) -> None:
    open_connections(broker, 3)
    proxy.forget()
    child = os.fork()
    if not child:
        try:
            actor.send()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    actor.send()
    assert broker.counts(actor.queue_name).waiting == 2


def ask_state(broker: RedisBroker) -> list[Callable[[], object]]:
    """Call everything that shares the broker's Redis client."""
    records = RedisRegistry(broker.client, "here")
    store = RedisIdempotencyStore(broker.state)
    second = timedelta(seconds=30)
    queue = next(iter(broker.queues))
    return [
        broker.ping,
        broker.weaknesses,
        lambda: broker.counts(queue),
        lambda: broker.inspector.find("nothing"),
        broker.inspector.workers,
        lambda: list(broker.dead_letters(queue)),
        lambda: broker.inspector.pause(queue),
        lambda: broker.inspector.is_paused(queue),
        lambda: broker.inspector.resume(queue),
        lambda: records.report([], None),  # type: ignore[arg-type]
        records.disabled,
        records.all,
        lambda: records.disable("x", why="a test", now=1.0),
        lambda: records.keep({"x": b"job"}, second),
        lambda: records.kept("x"),
        lambda: store.begin("key", "me", second),
        lambda: store.renew("key", "me", second),
        lambda: store.finish("key", "me", b"1", second),
        lambda: store.release("key", "me"),
    ]


def test_every_read_over_a_dropped_connection_is_repeated(
    broker: RedisBroker, proxy: Proxy, actor: Any
) -> None:
    for ask in ask_state(broker):
        open_connections(broker, 2)
        proxy.forget()
        ask()


def test_the_idempotency_store_returns_the_same_after_a_lost_reply(
    broker: RedisBroker, proxy: Proxy
) -> None:
    store, second = RedisIdempotencyStore(broker.state), timedelta(seconds=30)
    assert store.begin("other", "me", second) is None  # the server has the script in its cache
    proxy.lose_reply_to(b"begin")
    assert store.begin("key", "me", second) is None
    proxy.lose_reply_to(b"finish")
    assert store.finish("key", "me", b"1", second)
    assert store.begin("key", "you", second) == Finished(b"1")
    assert not store.finish("other", "you", b"1", second)


def test_disabling_an_endpoint_after_a_lost_reply_is_reported_as_new(
    broker: RedisBroker, proxy: Proxy
) -> None:
    records = RedisRegistry(broker.client, "here")
    open_connections(broker, 2)
    proxy.forget()
    assert records.disable("x", why="a test", now=1.0)
    found: list[EndpointRecord] = records.all()
    assert [one.id for one in found] == ["x"]


def test_the_usual_send_is_one_call(broker: RedisBroker, actor: Any, redis_url: str) -> None:
    actor.send()
    before = int(broker.client.info("stats")["total_commands_processed"])
    actor.send()
    after = int(broker.client.info("stats")["total_commands_processed"])
    # INFO, EVALSHA, and the commands of the script.
    calls = broker.client.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] >= 2
    assert after - before < 20


def test_an_impatient_client_does_not_ask_a_silent_server_again(proxy: Proxy) -> None:
    url = f"redis://127.0.0.1:{proxy.port}/0?socket_connect_timeout=0.2"
    client = connect_redis(url, timeout=timedelta(seconds=30))
    assert client.ping()
    client.be_impatient(rest=3_600)
    client.drop_idle()
    proxy.swallow()
    with pytest.raises(redis.TimeoutError):
        client.get("key")
    asked = proxy.accepted
    for _ in range(3):
        with pytest.raises(NotAsked, match="not asked again for 3600 s"):
            client.get("key")
        with pytest.raises(NotAsked):
            client.pipeline().get("key").execute()
    assert proxy.accepted == asked
    client.close()


def refused() -> None:
    with translated("here"):
        connect_redis("redis://127.0.0.1:1", timeout=timedelta(seconds=5)).ping()


def test_the_cause_of_an_error_is_not_what_was_handled_before(redis_url: str) -> None:
    try:
        raise LookupError("another error")
    except LookupError:
        with pytest.raises(BrokerUnavailable, match="Connection refused") as caught:
            refused()
    assert "another error" not in str(caught.value)
