"""Fixtures that give each test a clean server, and pytest plugins for the whole run.

`scripts/servers.py` puts the addresses of the shared servers into the environment. A test
that asks for a server's fixture gets the mark of that kind of server.
"""

from __future__ import annotations

import base64
import gc
import os
import secrets
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import hypothesis
import pytest

from tests.support.missing import skip_or_fail
from tests.support.quick import QUICK, Quick
from tests.support.ran import RanCheck
from tests.support.servers import (
    ClickHouseCluster,
    ClickHouseServer,
    RedisServer,
    Server,
    ZooKeeperServer,
    in_ci,
)
from tests.support.share import NAME as SHARE
from tests.support.share import share_asked_for

# Milliseconds until a paused worker, or a worker that lost its consumer, continues (default 3,000).
os.environ.setdefault("dramatiq_restart_delay", "200")

# No deadlines: the duration of an example depends on how busy the machine is.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
# For runs that show that the code works with other versions, where other bugs are not sought.
hypothesis.settings.register_profile(
    "brief", hypothesis.settings.get_profile("busy"), max_examples=10
)
hypothesis.settings.load_profile("busy")

_S = TypeVar("_S", bound=Server)


@pytest.fixture
def unique() -> str:
    """A short random string, for names that no other test uses."""
    return "t" + secrets.token_hex(4)


@pytest.fixture
def redis_url() -> str:
    """URL of the shared Redis, emptied."""
    return _emptied_redis()


@pytest.fixture(scope="module")
def redis_url_of_module() -> str:
    """URL of the shared Redis, emptied before the first test of a file that uses no `redis_url`."""
    return _emptied_redis()


@pytest.fixture
def rabbitmq_url(
    request: pytest.FixtureRequest, unique: str, vhost_remover: ThreadPoolExecutor
) -> Iterator[str]:
    """URL of the shared RabbitMQ, with a virtual host for this test alone.

    In a file with the mark `shared_vhost`, it is `rabbitmq_url_of_module`, but not for tests with
    the mark `own_vhost`: all delay queues of a virtual host are of one type.
    """
    marks = {mark.name for mark in request.node.iter_markers()}
    if "shared_vhost" in marks and "own_vhost" not in marks:
        yield request.getfixturevalue("rabbitmq_url_of_module")
        return
    with _vhost(unique, vhost_remover) as url:
        yield url


@pytest.fixture(scope="module")
def rabbitmq_url_of_module(vhost_remover: ThreadPoolExecutor) -> Iterator[str]:
    """URL of the shared RabbitMQ, with a virtual host that the tests of a file share.

    Tests use `unique` in queue names. The first message to a virtual host declares the delay
    queues, which takes 0.6 s of the server's CPU, with their removal.
    """
    with _vhost("t" + secrets.token_hex(4), vhost_remover) as url:
        yield url


@pytest.fixture(scope="session")
def vhost_remover() -> Iterator[ThreadPoolExecutor]:
    """A thread that removes virtual hosts in the background, which takes 0.5 s each."""
    with ThreadPoolExecutor(1) as remover:
        yield remover


@contextmanager
def _vhost(name: str, remover: ThreadPoolExecutor) -> Iterator[str]:
    """Create a virtual host. Without a management API, use the given address unchanged."""
    url = _server_url("rabbitmq", "FORMRELAY_TEST_RABBITMQ_URL")
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
    """URL of the shared ClickHouse, native protocol. Use `clickhouse_database` with it."""
    return _server_url("clickhouse", "FORMRELAY_TEST_CLICKHOUSE_URL")


@pytest.fixture
def clickhouse_http_url() -> str:
    """URL of the shared ClickHouse, HTTP. Use `clickhouse_database` with it."""
    return _server_url("clickhouse", "FORMRELAY_TEST_CLICKHOUSE_HTTP_URL")


@pytest.fixture
def clickhouse_database(clickhouse_http_url: str, unique: str) -> Iterator[str]:
    """Name of a database for this test alone, dropped afterwards."""
    _clickhouse_query(clickhouse_http_url, f"CREATE DATABASE {unique}")
    yield unique
    _clickhouse_query(clickhouse_http_url, f"DROP DATABASE IF EXISTS {unique}")


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running Redis for this test alone, to kill and restart."""
    with own(RedisServer) as server:
        yield server


@pytest.fixture
def clickhouse_server() -> Iterator[ClickHouseServer]:
    """A running ClickHouse for this test alone, to kill and restart."""
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
            assert node.running, f"a ClickHouse node has crashed:\n{node.log_tail(60)}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--quick``."""
    parser.addoption("--quick", action="store_true", help="no test that needs a server or process")


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugins: marks of processes, check of skipped kinds, shared runs."""
    is_quick = config.getoption("quick")
    if is_quick:
        config.option.markexpr = QUICK
    config.pluginmanager.register(Quick(is_asked_for=is_quick))
    config.pluginmanager.register(RanCheck(config, required=in_ci()))
    if share := share_asked_for():
        config.pluginmanager.register(share, SHARE)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Load a test file without garbage collection.

    Python before 3.11.8 cannot compile a file while a finalizer parses code (cpython 106905), and
    pytest does so for an error in a finalizer.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def _server_url(kind: str, variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        skip_or_fail(f"no {kind} server: {variable} is not set; scripts/test starts a server")
    return value


def _emptied_redis() -> str:
    import redis  # optional: tests without it must still be collected

    url = _server_url("redis", "FORMRELAY_TEST_REDIS_URL")
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


def own(server_class: type[_S]) -> _S:
    """A new server of the class; skips the test if the program is missing."""
    _require(server_class)
    return server_class()


def _require(server_class: type[Server]) -> None:
    if server_class.program() is None:
        name, package = server_class.kind, server_class.package
        skip_or_fail(f"{name} is not installed: apt-get install {package}")


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
