"""A broker is killed and restarted: workers continue by themselves, no message is lost.

Follow-up messages of jobs that end while it is down are sent later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerUnavailable
from formrelay.brokers.rabbitmq import topology
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from tests.brokers.contract.test_awaiting import Reply, awaiting
from tests.conftest import own
from tests.faults.conftest import Site
from tests.support.harness import Harness
from tests.support.servers import RabbitServer, RedisServer
from tests.support.waiting import wait_until

EACH_ONCE = ["next wait", "next work", "success wait", "success work"]
OPTIONS = BrokerOptions(
    heartbeat_timeout=timedelta(seconds=1), connect_timeout=timedelta(seconds=1)
)


@pytest.fixture(scope="module")
def rabbitmq_of_module() -> Iterator[RabbitServer]:
    """The tests of this file kill it and start it again."""
    with own(RabbitServer) as server:
        yield server


def restart(server: RedisServer | RabbitServer, tmp_path: Path, unique: str) -> None:
    site = Site(server.url, unique, tmp_path / "done")
    try:
        site.send(range(100), milliseconds=5)
        site.send(range(100, 110), delay=3_000)
        site.start_worker()
        wait_until(lambda: len(site.lines()) >= 20)
        if isinstance(server, RabbitServer):
            # RabbitMQ 3.10 loses a queue that was declared within the last second.
            rungs = (topology.delay_name(rung) for rung in range(topology.DELAY_QUEUES))
            server.wait_on_disk(site.queue, f"dlq.{site.queue}", *rungs)
        server.kill()
        with pytest.raises(BrokerUnavailable, match="check that it runs"):
            site.send(range(1))
        server.start()
        site.wait_for(range(110), timeout=40)
        wait_until(site.is_empty)
        assert list(site.broker.dead_letters(site.queue)) == []
    finally:
        site.close()


@pytest.mark.redis
def test_a_killed_redis_loses_nothing(
    redis_server: RedisServer, tmp_path: Path, unique: str
) -> None:
    restart(redis_server, tmp_path, unique)


@pytest.mark.slow
@pytest.mark.rabbitmq
def test_a_killed_rabbitmq_loses_nothing(
    rabbitmq_of_module: RabbitServer, tmp_path: Path, unique: str
) -> None:
    restart(rabbitmq_of_module, tmp_path, unique)


# -- follow-up messages ------------------------------------------------------------------------


class Ends:
    """Two jobs that kill the broker at their end: one in a worker thread, one in the event loop."""

    def __init__(self, server: RedisServer | RabbitServer, queue: str) -> None:
        self.server = server
        broker_class = RabbitBroker if isinstance(server, RabbitServer) else RedisBroker
        self.harness = Harness(broker_class(server.url, options=OPTIONS), queue)
        self.runs: list[str] = []
        self.seen: list[str] = []
        self._are_at_their_end = threading.Barrier(2, action=self._kill)
        self._is_killed = False
        self.harness.actor(lambda kind: self.seen.append(f"next {kind}"), actor_name="following")
        self.harness.actor(self._succeeded, actor_name="tell")

    def send(self) -> None:
        async def wait() -> None:
            reply = Reply()
            threading.Timer(0.01, reply.give).start()
            await reply
            self._end("wait")

        # One has its on_success in the message, the other in the actor.
        work = self.harness.actor(lambda: self._end("work"), actor_name="work")
        for message in (
            work.message_with_options(on_success="tell"),
            awaiting(self.harness, wait, on_success="tell").message(),
        ):
            following = self.harness.broker.actors["following"].message(message.actor_name)
            following.options["pipe_ignore"] = True
            dramatiq.pipeline([message, following], broker=self.harness.broker).run()

    def _end(self, kind: str) -> None:
        self.runs.append(kind)
        if not self._is_killed:
            self._are_at_their_end.wait(10)

    def _kill(self) -> None:
        self._is_killed = True
        if isinstance(self.server, RabbitServer):
            self.server.wait_on_disk(self.harness.queue, f"dlq.{self.harness.queue}")
        self.server.kill()

    def _succeeded(self, message: dict[str, Any], _result: Any) -> None:
        self.seen.append(f"success {message['actor_name']}")

    def start(self, caplog: pytest.LogCaptureFixture) -> None:
        """Start a worker, and wait until both jobs fail to send their follow-up messages."""
        self.harness.start()
        wait_until(lambda: caplog.text.count("the job is not settled yet") == 2)
        assert self.seen == []

    def wait_for_all(self) -> None:
        wait_until(lambda: set(EACH_ONCE) <= set(self.seen))
        wait_until(self.harness.is_empty)
        assert self.harness.dead() == []


@pytest.fixture(
    params=[
        pytest.param("redis_server", marks=pytest.mark.redis),
        pytest.param("rabbitmq_of_module", marks=pytest.mark.rabbitmq),
    ],
    ids=["redis", "rabbitmq"],
)
def ends(request: pytest.FixtureRequest, unique: str) -> Iterator[Ends]:
    ends = Ends(request.getfixturevalue(request.param), unique)
    yield ends
    if not ends.server.running:  # otherwise closing waits for a timeout
        ends.server.start()
    ends.harness.close()


@pytest.mark.slow
def test_follow_up_messages_are_sent_after_the_broker_is_back(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    ends.send()
    ends.start(caplog)
    served = threading.Event()  # the event loop does not wait for the broker
    ends.harness.broker.async_runner.loop.call_soon_threadsafe(served.set)
    assert served.wait(0.5)
    ends.server.start()
    ends.wait_for_all()
    if isinstance(ends.server, RedisServer):
        # RabbitMQ redelivers messages that were in flight when the connection was lost.
        assert sorted(ends.runs) == ["wait", "work"]
        assert sorted(ends.seen) == EACH_ONCE


@pytest.mark.slow
def test_a_job_is_requeued_if_its_worker_stops_before_its_follow_up_is_sent(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    ends.send()
    ends.start(caplog)
    ends.harness.stop()
    assert ends.seen == []
    ends.server.start()
    ends.harness.start()
    ends.wait_for_all()
    assert sorted(ends.runs) == ["wait", "wait", "work", "work"]
