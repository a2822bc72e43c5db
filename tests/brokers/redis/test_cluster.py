"""A Redis Cluster is refused with an error of one line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from dramatiq import Message

from formrelay.actors.webhooks.redis_registry import RedisRegistry
from formrelay.brokers.errors import BrokerRefused
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.state.redis.connection import connect_redis, redis_address
from tests.support.command import run
from tests.support.missing import skip_or_fail
from tests.support.servers import RedisServer
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

SAYS = "got a node of a Redis Cluster: use a server without cluster mode"


class ClusterNode(RedisServer):
    """A node of a cluster, without slots at first."""

    # By default the second port is the first plus 10000, which a client may use.
    settings: ClassVar[dict[str, str]] = {
        "cluster-enabled": "yes",
        "cluster-port": str(free_port()),
    }


@pytest.fixture(scope="module")
def node() -> Iterator[ClusterNode]:
    if ClusterNode.program() is None:
        skip_or_fail("redis is not installed: apt-get install redis-server")
    with ClusterNode() as server:
        yield server


def test_a_cluster_is_refused_by_every_command_and_call(node: ClusterNode, tmp_path: Path) -> None:
    broker = RedisBroker(node.url)
    client = connect_redis(node.url, timeout=timedelta(seconds=1))
    message = Message[None]("events", "record_events", (), {}, {})
    with pytest.raises(BrokerRefused, match=SAYS):  # CLUSTERDOWN: the node has no slots
        broker.enqueue(message)
    client.execute_command("CLUSTER", "ADDSLOTS", *range(8_192))
    wait_until(lambda: broker.client.cluster("INFO"))
    client.execute_command("CLUSTER", "ADDSLOTS", *range(8_192, 16_384))
    wait_until(lambda: broker.client.cluster("INFO")["cluster_state"] == "ok")
    with pytest.raises(BrokerRefused, match=SAYS):
        broker.ping()
    with pytest.raises(BrokerRefused, match=SAYS):  # CROSSSLOT
        broker.enqueue(message)
    with pytest.raises(BrokerRefused, match=SAYS):
        RedisRegistry(client, redis_address(node.url)).enable("a")
    env = {"REDIS_URL": node.url, "API_URL": "http://127.0.0.1:1"}
    done = run("worker", "--queue", "webhooks", "--processes", "1", cwd=tmp_path, env=env)
    assert done.returncode != 0
    assert SAYS in done.stderr
    assert "Traceback" not in done.stderr
    done = run("doctor", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert SAYS in done.stdout
