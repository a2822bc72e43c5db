"""One of several monitors leads, and no alert is lost when it dies or its store is unreachable."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from dramatiq import Message

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.broker_errors import BrokerUnavailable
from formrelay.ops.monitor.monitor import Monitor
from formrelay.state.alert_store import MemoryAlertStore
from formrelay.testing import MemoryBroker
from tests.actors.receiver import receiving
from tests.ops.monitor.watched import Kept, firing, look, make_monitor, settings_of
from tests.support.command import Program, clean_environment, start_python
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

PROGRAM = Path(__file__).with_name("program.py")
ROOT = PROGRAM.parents[3]


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    broker = RedisBroker(redis_url)
    yield broker
    broker.close()


def send(broker: RedisBroker) -> None:
    broker.declare_queue("jobs")
    broker.enqueue(Message("jobs", "job", (), {}, {}))


@pytest.mark.redis
def test_no_alert_is_lost_when_the_leader_is_killed_before_it_sends(
    redis_url: str, broker: RedisBroker, tmp_path: Path
) -> None:
    alerts = f"{broker.keys.namespace}:__alerts__"
    with receiving() as receiver, redis.Redis.from_url(redis_url) as client:
        environment = clean_environment(PYTHONPATH=str(ROOT))

        def start(*options: str) -> Program:
            arguments = (str(PROGRAM), redis_url, receiver.url, *options)
            log = tmp_path / f"monitor{len(options)}.log"
            return start_python(*arguments, cwd=ROOT, env=environment, log=log)

        leader = start("die")
        wait_until(lambda: client.hget(alerts, "leader"))
        other = start()
        try:
            wait_until(lambda: client.hlen(f"{alerts}.monitors") == 2)
            assert client.hlen(f"{alerts}.outbox") == 0
            send(broker)  # nobody works on it
            assert leader.wait(60) == -signal.SIGKILL
            wait_until(lambda: receiver.requests)
            wait_until(lambda: client.hlen(f"{alerts}.outbox") == 0)
        finally:
            for process in (leader, other):
                process.kill()
                process.wait()
        (request,) = receiver.requests
        assert request.json["data"]["rule"] == "queue_without_worker"


@pytest.mark.redis
def test_only_the_leader_speaks_and_another_continues_where_it_was(broker: RedisBroker) -> None:
    first, second = Kept(), Kept()
    leader, other = make_monitor(broker, first), make_monitor(broker, second)
    send(broker)
    for _ in range(2):
        look(leader)
        look(other)
    assert [len(kept.got) for kept in (first, second)] == [1, 0]
    leader._let_go()
    look(other)
    assert second.got == [], "it is said already"
    broker.inspector.purge("jobs")
    for _ in range(2):
        look(other)
    assert [event for event, _, _ in second.said] == ["resolved"]
    look(leader)
    assert len(first.got) == 1


@pytest.mark.redis
def test_a_leader_that_slept_through_its_lease_changes_nothing(broker: RedisBroker) -> None:
    kept = Kept()
    leader, other = make_monitor(broker, kept), make_monitor(broker, Kept())
    send(broker)
    collect = leader._collector.collect

    def sleep(*arguments: object) -> object:
        client = broker.client
        client.hset("dramatiq:__alerts__", "until", 1)  # its lease ended while it was stopped
        other.look()
        return collect(*arguments)  # type: ignore[arg-type]

    leader._collector.collect = sleep  # type: ignore[assignment,method-assign]
    look(leader)
    assert kept.got == []
    assert leader._store.lead(leader.name, timedelta(1), time.time()).monitors[0] == other.name


@pytest.mark.redis
def test_a_broker_that_is_full_or_down_is_said_from_memory_and_so_is_its_end(
    redis_server: RedisServer,
) -> None:
    broker = RedisBroker(
        redis_server.url, options=BrokerOptions(connect_timeout=timedelta(seconds=1))
    )
    kept, deputy = Kept(), Kept()
    monitor, other = make_monitor(broker, kept), make_monitor(broker, deputy)
    for each in (monitor, other):
        look(each)
    look(monitor)
    for cause in (lambda: broker.client.config_set("maxmemory", 1), redis_server.kill):
        cause()  # full, and then down
        for _ in range(2):
            look(monitor)
            look(other)
    host = socket.gethostname()
    assert kept.said == [("firing", "broker_unreachable", {"host": host})]
    assert "refused" in kept.got[0]["summary"]
    assert str(redis_server.port) in kept.got[0]["summary"]
    assert deputy.got == [], "one process of a machine speaks"
    redis_server.start()
    for _ in range(3):
        look(monitor)
    assert [event for event, _, _ in kept.said] == ["firing", "resolved"]
    assert firing(monitor) == {}
    broker.close()


def test_deputies_on_other_machines_speak_later_and_not_all() -> None:
    host = socket.gethostname()
    monitor = _monitor()
    me = monitor.name

    def speaks(*order: str, after: float) -> bool:
        monitor._order, monitor._down_since = order, 1_000.0
        return monitor._speaks(1_000.0 + after)

    assert speaks(me, "b:1:x", after=0)
    assert not speaks("b:1:x", me, after=59)
    assert speaks("b:1:x", me, after=60), "two intervals later"
    assert not speaks("b:1:x", "c:1:x", "d:1:x", me, after=10_000)
    alive, dead = f"{host}:{os.getpid()}:x", f"{host}:{2**22 + 1}:x"
    assert not speaks(alive, me, after=10_000)
    assert speaks(dead, me, after=0), "its process is gone"


@pytest.mark.parametrize(
    ("environ", "rule"),
    [
        ({"REDIS_URL": "redis://a:1"}, "broker_unreachable"),
        ({"REDIS_URL": "redis://me:x@a:1", "STATE_URL": "redis://a:1"}, "broker_unreachable"),
        ({"REDIS_URL": "redis://a:1", "STATE_URL": "redis://b:1"}, "store_unreachable"),
        ({"RABBITMQ_URL": "amqp://a", "STATE_URL": "redis://b:1"}, "store_unreachable"),
    ],
)
def test_an_unreachable_store_is_the_broker_if_they_are_one(
    environ: dict[str, str], rule: str
) -> None:
    settings = settings_of(BROKER="rabbitmq" if "RABBITMQ_URL" in environ else "redis", **environ)
    monitor = Monitor(MemoryBroker(), settings, receivers=[], store=MemoryAlertStore())
    (found,) = monitor._about_store(BrokerUnavailable("down")).findings
    assert found.rule == rule


def _monitor() -> Monitor:
    return make_monitor(MemoryBroker(), Kept(), store=MemoryAlertStore())
