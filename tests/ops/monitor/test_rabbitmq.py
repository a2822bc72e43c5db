"""What differs on RabbitMQ: no shared store, and a broker that is down while the store is not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from dramatiq import Message

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.state.alert_store import MemoryAlertStore
from tests.ops.monitor.watched import Kept, firing, look, make_monitor
from tests.state.stores import state_of
from tests.support.waiting import wait_until

RABBIT = {"BROKER": "rabbitmq", "RABBITMQ_URL": "amqp://host", "ALERT_MAX_WAITING": "2"}


@pytest.mark.rabbitmq
def test_without_a_shared_store_one_process_of_a_machine_monitors(
    rabbitmq_url: str, unique: str
) -> None:
    broker = RabbitBroker(rabbitmq_url, options=BrokerOptions())
    broker.declare_queue(unique)
    broker.enqueue_many(Message(unique, "job", (), {}, {}) for _ in range(2))
    wait_until(lambda: broker.counts(unique).waiting == 2)
    kept, stand_by = Kept(), Kept()
    monitor, other = (make_monitor(broker, each, **RABBIT) for each in (kept, stand_by))
    assert isinstance(monitor._store, MemoryAlertStore)
    for each in (monitor, other, monitor):
        look(each)
    # Whether a worker consumes the queue, RabbitMQ tells without a store.
    assert sorted(kept.said) == [
        ("firing", "queue_too_long", {"queue": unique}),
        ("firing", "queue_without_worker", {"queue": unique}),
    ]
    assert stand_by.got == [], "one process of a machine speaks"
    monitor._let_go()  # as when its process ends
    look(other)
    assert len(stand_by.got) == 2, "it has no memory but its own"
    other._let_go()
    broker.close()


@pytest.mark.redis
def test_rabbitmq_that_is_down_is_one_alert_of_the_leader(redis_url: str) -> None:
    options = BrokerOptions(connect_timeout=timedelta(seconds=1))
    broker = RabbitBroker("amqp://guest:a-password@127.0.0.1:1", options=options)
    broker.state = state_of(redis_url)
    kept, stand_by = Kept(), Kept()
    leader, other = (make_monitor(broker, each, **RABBIT) for each in (kept, stand_by))
    for monitor in (leader, other, leader):
        look(monitor)
    assert kept.said == [("firing", "broker_unreachable", {"broker": "rabbitmq"})]
    assert "a-password" not in repr(kept.got)
    assert stand_by.got == []
    assert firing(leader).keys() == {"broker_unreachable"}
    broker.close()
    broker.state.client.close()
