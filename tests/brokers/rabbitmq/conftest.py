"""Fixtures of the tests that need RabbitMQ."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pika
import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.consumer import RabbitConsumer
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

OPTIONS = BrokerOptions(heartbeat_timeout=timedelta(seconds=1))

#: Tests with classic queues need a virtual host of their own.
QUEUE_TYPES = ("quorum", pytest.param("classic", marks=pytest.mark.own_vhost))

MakeHarness = Callable[..., Harness]


@pytest.fixture
def make_harness(rabbitmq_url: str, unique: str) -> Iterator[MakeHarness]:
    """Create harnesses on the virtual host and queue of this test; closed after the test."""
    made: list[Harness] = []

    def make(*, url: str = rabbitmq_url, queue: str = unique, **arguments: Any) -> Harness:
        broker = RabbitBroker(url, **{"options": OPTIONS, **arguments})
        made.append(Harness(broker, queue))
        return made[-1]

    yield make
    for harness in made:
        harness.close()


@pytest.fixture
def harness(make_harness: MakeHarness) -> Harness:
    return make_harness()


@pytest.fixture
def channel(rabbitmq_url: str) -> Iterator[Any]:
    """A channel with confirms on a separate connection, as another program has it."""
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


def consumer_of(harness: Harness) -> RabbitConsumer:
    """Wait for the connected consumer of a started harness."""

    def connected() -> Any:
        assert harness.worker is not None
        consumer = harness.worker.consumers[harness.queue].consumer
        consumer = getattr(
            consumer, "_inner", consumer
        )  # the consumer behind a coalescing consumer
        return consumer if getattr(consumer, "_subscription", None) is not None else None

    found: RabbitConsumer = wait_until(connected)
    return found


def cut(harness: Harness) -> None:
    """Close the consumer's connection, and wait until it has another."""
    consumer = consumer_of(harness)
    subscription = consumer._subscription
    assert subscription is not None
    subscription.connection._socket.shutdown(2)
    wait_until(lambda: consumer._subscription not in (None, subscription))


def vhost_of(url: str) -> str:
    """Name of the virtual host in a URL."""
    return urllib.parse.urlsplit(url).path[1:]


def api(base: str, path: str, *, method: str = "GET", body: Any = None) -> Any:
    """Call the management API."""
    parts = urllib.parse.urlsplit(base)
    manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    place = f"http://{parts.hostname}:{parts.port}{parts.path}/{path}"
    manager.add_password(None, place, parts.username or "", parts.password or "")
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    request = urllib.request.Request(
        place,
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Content-Type": "application/json"},
    )
    with opener.open(request, timeout=10) as answer:
        data = answer.read()
    return json.loads(data) if data else None
