"""Rights of a Redis user: the documented rights suffice, and ping() names a missing right."""

from __future__ import annotations

import re
import shlex
from typing import Any

import dramatiq
import pytest
import redis

from formrelay.brokers import NotAvailable
from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerRefused
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.ops.metrics.queues import QueueReader
from tests.support.checkout import ROOT
from tests.support.harness import Harness
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

DOCUMENT = ROOT / "docs" / "brokers.md"


def documented(user: str = "formrelay") -> list[str]:
    """ACL rules of a user from the documents, where they are quoted for a shell."""
    found = re.search(rf"^ACL SETUSER {user} (.+)$", DOCUMENT.read_text(), re.MULTILINE)
    assert found is not None
    return shlex.split(found[1])


def broker_of(
    server: RedisServer, queue: str, *rules: str, namespace: str = "dramatiq"
) -> RedisBroker:
    """A broker that connects as a user with the given ACL rules."""
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "me", "reset", "on", ">secret", *rules)
    url = f"redis://me:secret@127.0.0.1:{server.port}/0"
    broker = RedisBroker(url, options=BrokerOptions(), namespace=namespace)
    broker.declare_queue(queue)
    return broker


def with_password(rules: list[str]) -> list[str]:
    return [rule for rule in rules if rule not in ("on",) and not rule.startswith(">")]


def test_the_documented_rights_suffice_to_send_and_to_work(
    redis_server: RedisServer, unique: str
) -> None:
    broker = broker_of(redis_server, unique, *with_password(documented()))
    broker.ping()
    ran: list[int] = []
    harness = Harness(broker, unique)
    try:

        def work(number: int) -> None:
            ran.append(number)
            if number == 3:
                raise ValueError

        actor = harness.actor(work, max_retries=0)
        other: Any = dramatiq.actor(print, broker=broker, queue_name=f"{unique}-2")
        harness.start()
        actor.send(1)
        actor.send_with_options(args=(2,), delay=50, broker_priority=7)
        broker.enqueue_many([actor.message(3), other.message(4)])
        wait_until(lambda: sorted(ran) == [1, 2, 3] and len(harness.dead()) == 1)
        wait_until(harness.is_empty)
        assert broker.inspector.workers()
        assert broker.replay(unique, harness.dead()[0].id)
        broker.inspector.pause(unique)
        broker.inspector.resume(unique)
        broker.flush(unique)
        assert broker.weaknesses() == []
    finally:
        harness.close()


def test_a_worker_of_one_queue_needs_only_the_keys_of_that_queue(
    redis_server: RedisServer, unique: str
) -> None:
    rules = [rule for rule in with_password(documented()) if not rule.startswith("~")]
    keys = (f"~dramatiq:{unique}", f"~dramatiq:{unique}.*", "~dramatiq:__*", "~formrelay:*")
    broker = broker_of(redis_server, unique, *rules, *keys)
    broker.declare_queue("webhooks")
    broker.ping([unique])
    with pytest.raises(BrokerRefused, match="for the queue 'webhooks'"):
        broker.ping()
    figures = QueueReader(lambda: broker).read()  # for metrics
    assert [each.queue for each in figures.counts] == [unique]
    assert figures.due == {unique: (0, 0)}
    ran: list[int] = []
    harness = Harness(broker, unique)
    broker.queues.discard("webhooks")
    try:
        actor = harness.actor(ran.append, actor_name="note")
        harness.start()
        actor.send(1)
        wait_until(lambda: ran == [1])
        wait_until(harness.is_empty)
    finally:
        harness.close()


COMMANDS = """
evalsha script|load info bzpopmin time exists hget hset hdel hmget hincrby hsetnx
rpush lpush lpop llen zadd zrem zrangebyscore sadd srem smembers set incr
smismember scard zpopmin
"""


@pytest.mark.parametrize("command", COMMANDS.split())
def test_ping_names_each_missing_command(
    redis_server: RedisServer, unique: str, command: str
) -> None:
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.script_flush()
    broker = broker_of(redis_server, unique, "~*", "+@all", f"-{command}")
    with pytest.raises(BrokerRefused) as refused:
        broker.ping()
    # Redis does not say which it is where a script asks before all commands.
    known = "can't run this command" if command in ("time", "exists") else command.partition("|")[0]
    assert known in str(refused.value).lower()
    broker.close()


@pytest.mark.parametrize(
    "keys",
    [["~dramatiq:other*"], ["~dramatiq:{q}"], ["~dramatiq:{q}*"], ["%R~*"]],
    ids=["another queue", "the list alone", "no common keys", "read only"],
)
def test_ping_names_missing_rights_to_keys(
    redis_server: RedisServer, unique: str, keys: list[str]
) -> None:
    rules = [rule.replace("{q}", unique) for rule in keys]
    broker = broker_of(redis_server, unique, "+@all", *rules)
    with pytest.raises(BrokerRefused, match=r"key|NOPERM"):
        broker.ping()
    broker.close()


def test_ping_reports_a_replica_and_a_renamed_command(
    redis_server: RedisServer, unique: str
) -> None:
    broker = broker_of(redis_server, unique, "+@all", "~*")
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.config_set("replica-serve-stale-data", "yes")
        admin.replicaof("127.0.0.1", 1)
        with pytest.raises(BrokerRefused, match="READONLY"):
            broker.ping()
        admin.execute_command("REPLICAOF", "NO", "ONE")
        broker.ping()
        admin.config_set("min-replicas-to-write", 1)
        with pytest.raises(BrokerRefused, match="NOREPLICAS"):
            broker.ping()
        admin.config_set("min-replicas-to-write", 0)
        admin.config_set("maxmemory", 1)
        with pytest.raises(BrokerRefused, match="OOM"):
            broker.ping()
    broker.close()


def test_ping_changes_no_key_and_no_job(redis_url: str, unique: str) -> None:
    broker = RedisBroker(redis_url, options=BrokerOptions())
    actor: Any = dramatiq.actor(print, broker=broker, queue_name=unique)
    broker.ping()
    assert broker.client.keys("*") == []
    for number in range(3):
        actor.send(number)
        actor.send_with_options(args=(number,), delay=60_000)
        actor.send_with_options(args=(number,), broker_priority=9)
    broker.client.lpush(broker.keys.inbox(unique), "{}")
    broker.client.hset(broker.keys.dead_bodies(unique), "dead", "body")
    broker.client.zadd(broker.keys.dead(unique), {"dead": 5})
    broker.client.set(broker.keys.sequence(), "5")

    def everything() -> dict[bytes, bytes]:
        return {key: broker.client.dump(key) for key in broker.client.keys("*")}

    before = everything()
    broker.ping()
    after = everything()
    # A counter whose values are never used twice.
    assert int(broker.client.get(broker.keys.sequence())) >= 5
    sequence = broker.keys.sequence().encode()
    del before[sequence], after[sequence]
    assert before == after
    assert broker.inspector.workers() == []
    broker.close()


def test_queues_are_listed_with_the_documented_rights_and_not_without_scan(
    redis_server: RedisServer, unique: str
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.hset("dramatiq:others.msgs", "id", "body")
    broker = broker_of(redis_server, unique, *with_password(documented()))
    assert broker.inspector.queues() == sorted([unique, "others"])
    broker.close()
    broker = broker_of(redis_server, unique, *with_password(documented()), "-scan")
    with pytest.raises(NotAvailable, match="without the right to SCAN"):
        broker.inspector.other_queues()
    assert broker.inspector.queues() == [unique]
    assert broker.inspector.has_queue("others")
    broker.close()
