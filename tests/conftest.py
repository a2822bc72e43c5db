"""Servers for tests, fresh for each, and the check that each kind's tests really ran.

`scripts/servers.py` puts the servers' addresses into the environment. A test asks
for one by its fixture, and is marked with the server's kind by that alone.
"""

from __future__ import annotations

import base64
import os
import secrets
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import hypothesis
import pytest

from tests.support.missing import missing
from tests.support.quick import QUICK, Quick
from tests.support.ran import RanCheck
from tests.support.servers import (
    ClickHouseCluster,
    ClickHouseServer,
    RabbitServer,
    RedisServer,
    Server,
    ZooKeeperServer,
    in_ci,
)
from tests.support.share import share_asked_for

# Milliseconds until a paused worker, or one that lost its consumer, goes on: 3,000 by default.
os.environ.setdefault("dramatiq_restart_delay", "200")

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")

_S = TypeVar("_S", bound=Server)


@pytest.fixture
def unique() -> str:
    """A short random string, for names that must not meet another test's."""
    return "t" + secrets.token_hex(4)


@pytest.fixture
def redis_url() -> str:
    """The shared Redis, emptied."""
    import redis  # an extra: a suite without it must still be collected

    url = _given("redis", "FORMRELAY_TEST_REDIS_URL")
    with redis.Redis.from_url(url) as client:
        ours = os.environ.get("FORMRELAY_TEST_REDIS_PID")
        if ours == str(client.info("server")["process_id"]):
            client.flushall()
        elif client.dbsize():
            pytest.fail(
                "FORMRELAY_TEST_REDIS_URL names a Redis that scripts/servers.py did not start"
                " and that holds data, so it is not emptied; point it at an empty database"
            )
    return url


@pytest.fixture
def rabbitmq_url(unique: str, vhost_remover: ThreadPoolExecutor) -> Iterator[str]:
    """The shared RabbitMQ, in a virtual host of this test's own."""
    with _vhost(unique, vhost_remover) as url:
        yield url


@pytest.fixture(scope="module")
def rabbitmq_url_of_module(vhost_remover: ThreadPoolExecutor) -> Iterator[str]:
    """The shared RabbitMQ, in a virtual host of this file: only `unique` keeps its tests apart.

    The first message to a virtual host declares the delay queues, which takes 0.6 s.
    """
    with _vhost("t" + secrets.token_hex(4), vhost_remover) as url:
        yield url


@pytest.fixture(scope="session")
def vhost_remover() -> Iterator[ThreadPoolExecutor]:
    """Removes virtual hosts while the next tests run: it takes 0.5 s to remove the delay queues."""
    with ThreadPoolExecutor(1) as remover:
        yield remover


@contextmanager
def _vhost(name: str, remover: ThreadPoolExecutor) -> Iterator[str]:
    """On a server given by hand there is no management API to make a virtual host with: then it is
    the address as given, and only `unique` names keep tests apart.
    """
    url = _given("rabbitmq", "FORMRELAY_TEST_RABBITMQ_URL")
    api = os.environ.get("FORMRELAY_TEST_RABBITMQ_API_URL")
    if not api:
        yield url
        return
    _rabbitmq_api(api, "PUT", f"vhosts/{name}", b"{}")
    everything = b'{"configure": ".*", "write": ".*", "read": ".*"}'
    _rabbitmq_api(api, "PUT", f"permissions/{name}/guest", everything)
    yield urllib.parse.urlsplit(url)._replace(path=f"/{name}").geturl()
    remover.submit(_rabbitmq_api, api, "DELETE", f"vhosts/{name}")


@pytest.fixture
def clickhouse_url() -> str:
    """The shared ClickHouse by its native protocol; see `clickhouse_database`."""
    return _given("clickhouse", "FORMRELAY_TEST_CLICKHOUSE_URL")


@pytest.fixture
def clickhouse_http_url() -> str:
    """The shared ClickHouse by HTTP; see `clickhouse_database`."""
    return _given("clickhouse", "FORMRELAY_TEST_CLICKHOUSE_HTTP_URL")


@pytest.fixture
def clickhouse_database(clickhouse_http_url: str, unique: str) -> Iterator[str]:
    """The name of a database of this test's own, dropped after it."""
    _clickhouse_query(clickhouse_http_url, f"CREATE DATABASE {unique}")
    yield unique
    _clickhouse_query(clickhouse_http_url, f"DROP DATABASE IF EXISTS {unique}")


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running Redis of this test's own, to kill and restart."""
    with own(RedisServer) as server:
        yield server


@pytest.fixture
def rabbitmq_server() -> Iterator[RabbitServer]:
    """A running RabbitMQ of this test's own, to kill and restart (5 s a start)."""
    with own(RabbitServer) as server:
        yield server


@pytest.fixture
def clickhouse_server() -> Iterator[ClickHouseServer]:
    """A running ClickHouse of this test's own, to kill and restart."""
    with own(ClickHouseServer) as server:
        yield server


@pytest.fixture(scope="module")
def clickhouse_cluster() -> Iterator[ClickHouseCluster]:
    """Two running ClickHouse servers that are replicas of each other (0.5 s a start)."""
    _require(ZooKeeperServer)
    _require(ClickHouseServer)
    with ClickHouseCluster() as cluster:
        yield cluster
        for node in cluster.nodes:
            assert node.running, f"a node has ended by itself:\n{node.log_tail(60)}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--quick``."""
    parser.addoption("--quick", action="store_true", help="no test that needs a server or process")


def pytest_configure(config: pytest.Config) -> None:
    """Mark what starts processes, watch that tests of every kind ran, share a run."""
    is_quick = config.getoption("quick")
    if is_quick:
        config.option.markexpr = QUICK
    config.pluginmanager.register(Quick(is_asked_for=is_quick))
    config.pluginmanager.register(RanCheck(config, required=in_ci()))
    if share := share_asked_for():
        config.pluginmanager.register(share)


def _given(kind: str, variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        missing(f"no {kind} server: {variable} is not set; scripts/test starts one for the tests")
    return value


def own(server_class: type[_S]) -> _S:
    _require(server_class)
    return server_class()


def _require(server_class: type[Server]) -> None:
    if server_class.program() is None:
        missing(f"{server_class.kind} is not installed: apt-get install {server_class.package}")


def _rabbitmq_api(api: str, method: str, path: str, body: bytes | None = None) -> None:
    parts = urllib.parse.urlsplit(api)
    credentials = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    request = urllib.request.Request(
        f"http://{parts.hostname}:{parts.port}{parts.path}/{path}",
        data=body,
        method=method,
        headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30):
        pass


def _clickhouse_query(http_url: str, query: str) -> None:
    with urllib.request.urlopen(http_url, data=query.encode(), timeout=30):
        pass
