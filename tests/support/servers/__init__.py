"""Redis, RabbitMQ and ClickHouse servers that tests start, kill and restart.

`scripts/servers.py` starts a server of each kind for a whole test run. A test that stops or kills
a server starts its own:

    with RabbitServer() as rabbit:
        ...
        rabbit.kill()
        rabbit.start()

Standard library only: `scripts/test` uses this before anything is installed.
"""

from __future__ import annotations

import os

from tests.support.servers.alertmanager import AlertmanagerServer
from tests.support.servers.base import Server, ServerError
from tests.support.servers.clickhouse import ClickHouseServer
from tests.support.servers.cluster import ClickHouseCluster
from tests.support.servers.dovecot import DovecotServer
from tests.support.servers.opensmtpd import OpenSmtpdServer
from tests.support.servers.postfix import PostfixServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.prometheus import PrometheusServer
from tests.support.servers.rabbitmq import RabbitCluster, RabbitServer
from tests.support.servers.redis import RedisServer
from tests.support.servers.run import Interrupted, Run, raise_on_signals
from tests.support.servers.zookeeper import ZooKeeperServer

__all__ = [
    "ALL",
    "KINDS",
    "AlertmanagerServer",
    "ClickHouseCluster",
    "ClickHouseServer",
    "DovecotServer",
    "Interrupted",
    "OpenSmtpdServer",
    "PostfixServer",
    "PostgresServer",
    "PrometheusServer",
    "RabbitCluster",
    "RabbitServer",
    "RedisServer",
    "Run",
    "Server",
    "ServerError",
    "ZooKeeperServer",
    "in_ci",
    "raise_on_signals",
]

#: Servers that every test run starts.
KINDS: dict[str, type[Server]] = {
    server.kind: server for server in (RedisServer, RabbitServer, ClickHouseServer)
}
#: Servers whose programs must be installed; tests start those that not every run needs.
ALL: tuple[type[Server], ...] = (
    *KINDS.values(),
    ZooKeeperServer,
    PostgresServer,
    PostfixServer,
    DovecotServer,
    AlertmanagerServer,
    PrometheusServer,
)


def in_ci() -> bool:
    """Whether this is CI, where a missing server fails the test."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}
