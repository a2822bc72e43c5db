"""Connections to Redis: TLS, Sentinels, passwords with special characters."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import redis

from formrelay.brokers import make_broker
from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.config import Settings
from formrelay.core.errors import ConfigError
from formrelay.state.idempotency import Running
from tests.support.certificates import Authority
from tests.support.harness import Harness
from tests.support.servers import RedisServer
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.redis,
    # An argument that the oldest redis-py requires and the newest no longer accepts.
    pytest.mark.filterwarnings("ignore:Call to 'get_connection'"),
]


@contextmanager
def server(redis_server: RedisServer, folder: Path, *options: str) -> Iterator[None]:
    """Start another process of the same program with other options."""
    del redis_server  # the fixture skips the test if the program is missing
    program = RedisServer.program()
    assert program is not None
    process = subprocess.Popen([program, *options], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def works(broker: RedisBroker, queue: str) -> None:
    """Run a job through the broker."""
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


def test_errors_omit_arguments_that_redis_quotes(redis_url: str) -> None:
    """Redis quotes the arguments of an unknown command, for example a renamed one."""
    broker = RedisBroker(redis_url)
    with (
        pytest.raises(BrokerRefused, match="unknown command") as refused,
        broker.commands.client_errors() as client,
    ):
        client.execute_command("HSOT", "key", "jane.doe@example.org")
    assert "jane" not in str(refused.value)


def test_tls_certificates_are_verified(
    redis_server: RedisServer, tmp_path: Path, unique: str
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    names += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]  # for Python 3.13
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    port = free_port()
    options = ["--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"]
    options += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"]
    with server(redis_server, tmp_path, *options):
        works(RedisBroker(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"), unique)
        # Without the authority, the certificate is not trusted.
        with pytest.raises(BrokerUnavailable, match="certificate"):
            RedisBroker(f"rediss://127.0.0.1:{port}/0").ping()


@pytest.mark.slow
def test_clients_follow_a_failover_of_sentinels(
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
                wait_until(lambda: knows_replica(sentinel))
                actor.send(1)
                harness.start()
                wait_until(lambda: ran == [1])
            wait_until(lambda: pings(broker))
            actor.send(2)
            wait_until(lambda: 2 in ran)
        finally:
            harness.close()


def knows_replica(port: int) -> bool:
    with redis.Redis(port=port) as client:
        return bool(client.execute_command("SENTINEL", "REPLICAS", "forms"))


def test_sentinels_without_a_service_name_are_an_error() -> None:
    with pytest.raises(ConfigError, match="like redis\\+sentinel://host:26379/mymaster, got none"):
        RedisBroker("redis+sentinel://127.0.0.1:26379")


@contextmanager
def tls_server(
    redis_server: RedisServer, folder: Path, *options: str
) -> Iterator[tuple[int, Path]]:
    """A server that accepts only TLS; returns its port and the certificate authority."""
    authority = Authority(folder)
    authority.server_side("server")
    port = free_port()
    tls = ["--port", "0", "--tls-port", str(port), "--tls-replication", "yes"]
    tls += ["--tls-cert-file", str(folder / "server.pem")]
    tls += ["--tls-key-file", str(folder / "server-key.pem")]
    tls += ["--tls-ca-cert-file", str(authority.certificate), "--tls-auth-clients", "no"]
    with server(redis_server, folder, *options, *tls, "--bind", "127.0.0.1"):
        yield port, authority.certificate


def test_tls_options_of_the_url_are_used(
    redis_server: RedisServer, tmp_path: Path, unique: str
) -> None:
    with tls_server(redis_server, tmp_path) as (port, authority):
        works(RedisBroker(f"REDISS://localhost:{port}/0?ssl_ca_certs={authority}"), unique)
        works(RedisBroker(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=CERT_NONE"), unique)
        checked = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority}"
        # The certificate is for localhost only.
        with pytest.raises(BrokerUnavailable, match=r"certificate|mismatch"):
            RedisBroker(checked).ping()
        works(RedisBroker(f"{checked}&ssl_check_hostname=false"), unique)
        with pytest.raises(ConfigError, match="ssl_ca_certs, got '/nowhere', which does not exist"):
            RedisBroker(f"rediss://localhost:{port}/0?ssl_ca_certs=/nowhere")


def test_sentinels_and_servers_with_passwords_and_tls(
    redis_server: RedisServer, tmp_path: Path, unique: str
) -> None:
    password, theirs = "p@ss:w/rd %#?ü", "s3nt&nel"
    folder = tmp_path / "sentinel"
    folder.mkdir()
    with tls_server(redis_server, tmp_path, "--requirepass", password) as (master, authority):
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor forms 127.0.0.1 {master} 1\n"
            f'sentinel auth-pass forms "{password}"\nrequirepass "{theirs}"\n'
        )
        with tls_server(redis_server, folder, str(config), "--sentinel") as (sentinel, other):
            both = tmp_path / "both.pem"
            both.write_text(authority.read_text() + other.read_text())
            address = f"127.0.0.1:{sentinel}/forms/0"
            user = f"rediss+sentinel://:{quote(password, safe='')}@"
            # Sentinels name the server by address, which the certificate does not contain.
            trust = f"ssl_ca_certs={both}&ssl_check_hostname=no&sentinel_tls=yes"
            url = f"{user}{address}?{trust}&socket_timeout=5&max_connections=20"
            works(RedisBroker(f"{url}&sentinel_password={quote(theirs)}"), unique)
            works_as_state(f"{url}&sentinel_password={quote(theirs)}")
            for wrong in (url, f"{url}&sentinel_password=hunter2"):
                with pytest.raises(BrokerUnavailable, match="accept the user and password") as said:
                    RedisBroker(wrong).ping()
                assert "hunter2" not in str(said.value)


def works_as_state(url: str) -> None:
    settings = Settings.load({"RABBITMQ_URL": "amqp://h", "STATE_URL": url}, env_file=None)
    store = make_broker(settings).idempotency_store()
    lock = timedelta(seconds=30)
    assert store.begin("key", "me", lock) is None
    assert isinstance(store.begin("key", "you", lock), Running)


def test_threads_wait_for_the_only_connection_of_a_pool(redis_url: str, unique: str) -> None:
    works(RedisBroker(f"{redis_url}?max_connections=1"), unique)
    broker = RedisBroker(f"{redis_url}?max_connections=2&socket_timeout=0.5")
    pool = broker.client.connection_pool
    taken = [pool.get_connection("PING") for _ in range(2)]
    with pytest.raises(BrokerUnavailable, match=r"all 2 connections were in use for 0\.5 s; raise"):
        broker.ping()
    pool.release(taken.pop())
    broker.ping()
    # A forked child has its own pool.
    child = os.fork()
    if not child:
        os._exit(0 if pings(broker) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    broker.close()


def test_a_short_socket_timeout_does_not_end_an_idle_wait(redis_url: str, unique: str) -> None:
    broker = RedisBroker(f"{redis_url}?socket_timeout=1&health_check_interval=0")
    began = time.monotonic()
    broker.commands.wait_for_work(unique, 60)
    assert 0.05 < time.monotonic() - began < 30
    broker.close()


def test_a_server_that_is_not_redis_is_named_in_the_error(rabbitmq_url: str) -> None:
    parts = urlsplit(rabbitmq_url)
    broker = RedisBroker(f"redis://{parts.hostname}:{parts.port}/0?socket_timeout=2")
    with pytest.raises(BrokerUnavailable):
        broker.ping()
