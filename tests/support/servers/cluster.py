"""A ClickHouse cluster: two replicas of a shard, and a ZooKeeper."""

from __future__ import annotations

import urllib.request
from contextlib import ExitStack, suppress
from typing import ClassVar, Self

from tests.support.servers.base import ServerError, free_port
from tests.support.servers.clickhouse import ClickHouseServer
from tests.support.servers.zookeeper import ZooKeeperServer
from tests.support.waiting import wait_until

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

_STARTS = 5


class ClickHouseCluster:
    """A cluster called :attr:`name`; the end of the `with` block stops all its servers."""

    name: ClassVar[str] = "pair"

    def __init__(self) -> None:
        self._started = ExitStack()

    def __enter__(self) -> Self:
        for _ in range(_STARTS):
            with ExitStack() as stack:
                self._start(stack)
                if self._survives_ddl():
                    self._started = stack.pop_all()
                    return self
                log = self.nodes[0].log_tail()
        raise ServerError(f"a node crashed in {_STARTS} of {_STARTS} starts; its log ends:\n{log}")

    def _start(self, stack: ExitStack) -> None:
        self.zookeeper = stack.enter_context(ZooKeeperServer())
        self.nodes = (ClickHouseServer(), ClickHouseServer())
        replicas = "".join(_REPLICA.format(port=node.port) for node in self.nodes)
        for number, node in enumerate(self.nodes, 1):
            stack.callback(node.close)
            more = {"interserver": free_port(), "zookeeper": self.zookeeper.port}
            node.configure(_MORE.format(name=self.name, replicas=replicas, number=number, **more))
            node.launch()
        for node in self.nodes:
            node.wait_ready()

    def _survives_ddl(self) -> bool:
        """Whether both nodes survive the first `ON CLUSTER` statements.

        ClickHouse 18.16 sometimes crashes on a null pointer when it connects to a ZooKeeper that
        has just started (`zkutil::ZooKeeper::createImpl`).
        """
        try:
            for change in ("CREATE DATABASE first", "DROP DATABASE first"):
                statement = f"{change} ON CLUSTER {self.name}".encode()
                urllib.request.urlopen(self.nodes[0].http_url, data=statement, timeout=30).close()
        except OSError:
            with suppress(AssertionError):  # a node that crashed may still be ending
                wait_until(lambda: not all(node.running for node in self.nodes), timeout=5)
            if all(node.running for node in self.nodes):
                raise
        return all(node.running for node in self.nodes)

    def __exit__(self, *_: object) -> None:
        self._started.close()
