"""Two ClickHouse servers that are replicas of one shard, and their ZooKeeper."""

from __future__ import annotations

from contextlib import ExitStack
from typing import ClassVar, Self

from tests.support.servers.base import free_port
from tests.support.servers.clickhouse import ClickHouseServer
from tests.support.servers.zookeeper import ZooKeeperServer

_REPLICA = """
            <replica><host>127.0.0.1</host><port>{port}</port></replica>"""

_MORE = """    <interserver_http_host>127.0.0.1</interserver_http_host>
    <interserver_http_port>{interserver}</interserver_http_port>
    <zookeeper>
        <node><host>127.0.0.1</host><port>{zookeeper}</port></node>
    </zookeeper>
    <remote_servers>
        <{name}><shard><internal_replication>true</internal_replication>{replicas}
        </shard></{name}>
    </remote_servers>
    <macros><shard>1</shard><replica>node{number}</replica></macros>
    <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>
"""


class ClickHouseCluster:
    """A cluster of the name :attr:`name`; leaving the `with` block ends all of it."""

    name: ClassVar[str] = "pair"

    def __init__(self) -> None:
        self.zookeeper = ZooKeeperServer()
        self.nodes = (ClickHouseServer(), ClickHouseServer())
        self._started = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.zookeeper)
            replicas = "".join(_REPLICA.format(port=node.port) for node in self.nodes)
            for number, node in enumerate(self.nodes, 1):
                stack.callback(node.close)
                more = {"interserver": free_port(), "zookeeper": self.zookeeper.port}
                node.configure(
                    _MORE.format(name=self.name, replicas=replicas, number=number, **more)
                )
                node.launch()
            for node in self.nodes:
                node.wait_ready()
            self._started = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()
