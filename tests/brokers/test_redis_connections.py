"""Ways to a Redis: TLS, Sentinels, passwords with special characters."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from tests.support.harness import Harness
from tests.support.servers import RedisServer
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until

from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import ConfigError

pytestmark = pytest.mark.redis


@contextmanager
def server(redis_server: RedisServer, folder: Path, *options: str) -> Iterator[None]:
    """Another process of the same program, with options of its own."""
    del redis_server  # asked for so that a missing program is a skip, or a failure in CI
    program = RedisServer.program()
    assert program is not None
    process = subprocess.Popen([program, *options], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def works(broker: RedisBroker, queue: str) -> None:
    """A job goes through it."""
    ran: list[int] = []
    harness = Harness(broker, queue)
    try:
        actor = harness.actor(ran.append, actor_name="note")
        wait_until(lambda: pings(broker))
        actor.send(1)
        harness.start()
        wait_until(lambda: ran == [1])
        wait_until(harness.is_empty)
    finally:
        harness.close()


def pings(broker: RedisBroker) -> bool:
    try:
        broker.ping()
    except BrokerUnavailable:
        return False
    return True


def test_a_password_may_hold_any_character(
    redis_server: RedisServer, tmp_path: Path, unique: str
) -> None:
    port, password = free_port(), "p@ss:w/rd %#?ü"
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", password]
    with server(redis_server, tmp_path, *options):
        works(RedisBroker(f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"), unique)
        wrong = RedisBroker(f"redis://:nonsense@127.0.0.1:{port}/0")
        with pytest.raises(BrokerRefused, match="refused them: check REDIS_URL") as refused:
            wrong.ping()
        assert "nonsense" not in str(refused.value)


def test_arguments_that_redis_quotes_are_in_no_error(redis_url: str) -> None:
    """As it does where a command was renamed away."""
    broker = RedisBroker(redis_url)
    with pytest.raises(BrokerRefused, match="unknown command") as refused, broker.talk() as client:
        client.execute_command("HSOT", "key", "jane.doe@example.org")
    assert "jane" not in str(refused.value)


def test_tls_is_checked_and_used(redis_server: RedisServer, tmp_path: Path, unique: str) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    port = free_port()
    options = ["--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"]
    options += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"]
    with server(redis_server, tmp_path, *options):
        works(RedisBroker(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"), unique)
        # Without that authority the certificate is anybody's.
        with pytest.raises(BrokerUnavailable, match="certificate"):
            RedisBroker(f"rediss://127.0.0.1:{port}/0").ping()


def test_a_failover_of_sentinels_is_followed(
    redis_server: RedisServer, tmp_path: Path, unique: str
) -> None:
    master, replica, sentinel = free_port(), free_port(), free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {sentinel}\nbind 127.0.0.1\nsentinel monitor forms 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds forms 500\nsentinel failover-timeout forms 3000\n"
    )
    local = ["--bind", "127.0.0.1", "--save", ""]
    following = ["--replicaof", f"127.0.0.1 {master}"]
    broker = RedisBroker(f"redis+sentinel://127.0.0.1:{sentinel}/forms/0")
    harness = Harness(broker, unique)
    ran: list[int] = []
    with (
        server(redis_server, tmp_path, "--port", str(replica), *local, *following),
        server(redis_server, tmp_path, str(config), "--sentinel"),
    ):
        try:
            with server(redis_server, tmp_path, "--port", str(master), *local):
                actor = harness.actor(ran.append, actor_name="note")
                wait_until(lambda: pings(broker))
                wait_until(lambda: knows_replica(sentinel), timeout=20)
                actor.send(1)
                harness.start()
                wait_until(lambda: ran == [1])
            wait_until(lambda: pings(broker), timeout=30)
            actor.send(2)
            wait_until(lambda: 2 in ran, timeout=30)
        finally:
            harness.close()


def knows_replica(port: int) -> bool:
    with redis.Redis(port=port) as client:
        return bool(client.execute_command("SENTINEL", "REPLICAS", "forms"))


def test_sentinels_without_a_service_are_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="like redis\\+sentinel://host:26379/mymaster, got none"):
        RedisBroker("redis+sentinel://127.0.0.1:26379")
