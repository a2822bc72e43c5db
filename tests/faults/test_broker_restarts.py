"""A broker is killed and restarted: workers continue by themselves, no message is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from formrelay.brokers.errors import BrokerUnavailable
from formrelay.brokers.rabbitmq import topology
from tests.faults.conftest import Site
from tests.support.servers import RabbitServer, RedisServer
from tests.support.waiting import wait_until


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
    rabbitmq_server: RabbitServer, tmp_path: Path, unique: str
) -> None:
    restart(rabbitmq_server, tmp_path, unique)
