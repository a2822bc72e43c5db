"""A cluster of three nodes loses one: quorum queues, workers and publishers continue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from formrelay.brokers import DeadFilter
from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.core.errors import SinkPermanent
from tests.brokers.rabbitmq.conftest import consumer_of
from tests.conftest import own
from tests.support.harness import Harness
from tests.support.servers import RabbitCluster, RabbitServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

OPTIONS = BrokerOptions(
    heartbeat_timeout=timedelta(seconds=1), connect_timeout=timedelta(seconds=5)
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RabbitCluster]:
    own(RabbitServer)  # skips where there is none
    with RabbitCluster() as cluster:
        yield cluster


def declared_at(node: RabbitServer, path: str, queue: str, **arguments: Any) -> None:
    """Declare a queue and its topology, with the classic queues on ``node``."""
    broker = RabbitBroker(node.url.removesuffix("%2F") + path, **arguments)
    broker.ping([queue])
    broker.close()


def harness_on(cluster: RabbitCluster, path: str, queue: str, **arguments: Any) -> Harness:
    url = ";".join(node.url.removesuffix("%2F") + path for node in cluster.nodes)
    return Harness(RabbitBroker(url, options=OPTIONS, **arguments), queue)


def send(actor: Any, number: int, **options: Any) -> None:
    """Send, and retry while the queue has no leader."""
    deadline = time.monotonic() + 30
    while True:
        try:
            actor.send_with_options(args=(number,), **options)
            return
        except (BrokerUnavailable, BrokerRefused):
            if time.monotonic() > deadline:
                raise


@pytest.mark.slow
def test_a_lost_node_stops_no_consumer_no_publisher_and_no_pause(
    cluster: RabbitCluster, caplog: pytest.LogCaptureFixture
) -> None:
    lost, kept = cluster.nodes[0], cluster.nodes[1]
    cluster.nodes[1].ctl("add_vhost", "classic")
    cluster.nodes[1].ctl("set_permissions", "-p", "classic", "guest", ".*", ".*", ".*")
    declared_at(lost, "%2F", "jobs")
    declared_at(lost, "%2F", "was-paused")
    # Classic queues: the delays and another queue are lost, this queue's node is not.
    declared_at(lost, "classic", "elsewhere", queue_type="classic")
    declared_at(kept, "classic", "here", queue_type="classic")
    worker = harness_on(cluster, "%2F", "jobs")
    paused = harness_on(cluster, "%2F", "was-paused")
    classic = harness_on(cluster, "classic", "here", queue_type="classic")
    ran: list[int] = []

    def note(number: int) -> None:
        ran.append(number)
        if number < 0:
            raise SinkPermanent("no")

    jobs = worker.actor(note, actor_name="jobs")
    others = paused.actor(note, actor_name="others")
    here = classic.actor(note, actor_name="here")
    try:
        paused.broker.inspector.pause("was-paused")
        for harness in (worker, classic, paused):
            harness.start()
            consumer_of(harness)
        send(jobs, 0)
        send(others, 100)
        wait_until(lambda: ran == [0])
        assert paused.broker.inspector.is_paused("was-paused")

        lost.kill()
        send(jobs, 1)
        send(jobs, 2, delay=100)
        send(here, 3)
        wait_until(lambda: sorted(ran) == [0, 1, 2, 3])

        inspector = worker.broker.inspector
        inspector.pause("jobs")
        wait_until(lambda: consumer_of(worker)._pause.is_paused)
        send(jobs, -4)
        # A process that is started now finds the same.
        another = harness_on(cluster, "%2F", "jobs")
        another.actor(note, actor_name="jobs")
        another.start()
        assert consumer_of(another)._pause.is_paused
        assert len(ran) == 4
        inspector.resume("jobs")
        wait_until(lambda: -4 in ran)
        another.close()
        wait_until(lambda: len(list(inspector.dead_letters(DeadFilter("jobs")))) == 1)

        # Paused before the node was lost: still paused.
        assert paused.broker.inspector.is_paused("was-paused")
        assert 100 not in ran
        paused.broker.inspector.resume("was-paused")
        wait_until(lambda: 100 in ran)
    finally:
        for harness in (worker, paused, classic):
            harness.close()
