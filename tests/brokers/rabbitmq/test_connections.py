"""URLs and connections; a server that does not answer is an error within the timeout."""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.rabbitmq import client
from formrelay.brokers.rabbitmq.errors import PublishersBlocked
from formrelay.brokers.rabbitmq.servers import servers
from formrelay.core.errors import ConfigError
from formrelay.core.failure import worker_name
from tests.brokers.rabbitmq.conftest import MakeHarness, api
from tests.support.certificates import Authority
from tests.support.missing import skip_or_fail
from tests.support.servers import RabbitServer
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

SECONDS = timedelta(seconds=1)
QUICK = BrokerOptions(connect_timeout=SECONDS)


class TlsServer(RabbitServer):
    """A server that also accepts TLS, with a certificate of a private authority."""

    def __init__(self) -> None:
        self.tls_port = free_port()
        super().__init__()

    def _config(self) -> str:
        folder = self.data_dir
        certify(folder)
        return super()._config() + (
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {folder}/ca.pem\n"
            f"ssl_options.certfile = {folder}/server.pem\n"
            f"ssl_options.keyfile = {folder}/server.key\n"
        )


def certify(folder: Path) -> None:
    """Create a certificate authority and a certificate for ``localhost``."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    # Python 3.13 wants both the key identifier and the key usage.
    (folder / "names").write_text("subjectAltName=DNS:localhost\nauthorityKeyIdentifier=keyid\n")
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-days", "2")  # fmt: skip
    openssl(*new, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-extfile", "names", "-out", "server.pem",
            "-days", "2")  # fmt: skip


@pytest.fixture(scope="module")
def own_server() -> Iterator[TlsServer]:
    """A server for tests that would disturb the shared server; starts in 5 s, so per module."""
    if TlsServer.program() is None:
        skip_or_fail("rabbitmq is not installed")
    with TlsServer() as server:
        yield server


def test_any_of_several_hosts_is_used(make_harness: MakeHarness, rabbitmq_url: str) -> None:
    url = urlsplit(rabbitmq_url)
    dead = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    login, _, place = url.netloc.rpartition("@")
    hosts = ",".join([*dead, place])
    for text in (
        f"amqp://{login}@{hosts}{url.path}",
        ";".join([*(f"amqp://{login}@{one}{url.path}" for one in dead), rabbitmq_url]),
    ):
        harness = make_harness(url=text)
        for _ in range(5):
            harness.broker.ping()
    harness = make_harness(url=f"amqp://{login}@{','.join(dead)}{url.path}")
    with pytest.raises(
        BrokerUnavailable, match=r"expected one of the RabbitMQ servers .* to answer"
    ) as raised:
        harness.broker.ping()
    assert all(one in str(raised.value) for one in dead)


def test_user_and_password_may_contain_any_character(
    make_harness: MakeHarness, unique: str
) -> None:
    base = os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"]
    password = "p@ss:w/rd?#[]%,; é&=+"
    harness = make_harness()
    user = f"u{unique}"
    api(base, f"users/{user}", method="PUT", body={"password": password, "tags": ""})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    vhost = urlsplit(os.environ["FORMRELAY_TEST_RABBITMQ_URL"])
    place = vhost.netloc.rpartition("@")[2]
    try:
        api(base, f"permissions/{unique}/{user}", method="PUT", body=everything)
        encoded = "p%40ss%3Aw%2Frd%3F%23%5B%5D%25%2C%3B%20%C3%A9%26%3D%2B"
        for written in (encoded, password):
            harness = make_harness(url=f"amqp://{user}:{written}@{place}/{unique}")
            harness.broker.ping()
        harness = make_harness(url=f"amqp://{user}:wrong@{place}/{unique}")
        with pytest.raises(BrokerRefused, match="accept the user and password") as raised:
            harness.broker.ping()
        assert "wrong" not in str(raised.value)
        harness = make_harness(url=f"amqp://{user}:{encoded}@{place}/not-there")
        with pytest.raises(BrokerRefused, match="let the user into the virtual host"):
            harness.broker.ping()
    finally:
        api(base, f"users/{user}", method="DELETE")


@pytest.mark.parametrize(
    "url", ["http://host", "amqp:/host", "host", "amqp://h:port", "amqp://h/%2F?cafile=x", ""]
)
def test_an_invalid_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError):
        servers(url, timeout=SECONDS)


def test_a_url_is_parsed_as_by_pika() -> None:
    (one,) = servers("amqp://me:word@host:1234/a%2Fb?heartbeat=7", timeout=SECONDS)
    assert (one.host, one.port, one.virtual_host, one.heartbeat) == ("host", 1234, "a/b", 7)
    (one,) = servers("amqps://host", timeout=SECONDS)
    assert (one.port, one.virtual_host) == (5671, "/")
    assert one.ssl_options.context.verify_mode is ssl.CERT_REQUIRED
    assert one.ssl_options.context.check_hostname


def test_tls_certificates_are_verified_with_a_private_authority(
    make_harness: MakeHarness, own_server: TlsServer, tmp_path: Path
) -> None:
    ca, port = own_server.data_dir / "ca.pem", own_server.tls_port
    harness = make_harness(url=f"amqps://guest:guest@localhost:{port}/%2F?cafile={ca}")
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    harness.broker.enqueue_many(actor.message(number) for number in range(300))
    harness.start()
    wait_until(lambda: len(ran) == 300)
    refused = "present a trusted certificate, got: "
    with pytest.raises(BrokerRefused, match=refused + r".*; the file of \?cafile="):
        make_harness(url=f"amqps://guest:guest@localhost:{port}").broker.ping()
    by_address = f"amqps://guest:guest@127.0.0.1:{port}/%2F?cafile={ca}"
    other = Authority(tmp_path).certificate
    url = f"amqps://guest:guest@localhost:{port}/%2F?cafile={other}"
    with pytest.raises(BrokerRefused, match=refused + r".*; the file of \?cafile="):
        make_harness(url=url).broker.ping()
    # No other authority would help.
    with pytest.raises(BrokerRefused, match=refused + "IP address mismatch[^;]*$"):
        make_harness(url=by_address).broker.ping()


def test_a_connection_names_its_process(make_harness: MakeHarness, own_server: TlsServer) -> None:
    harness = make_harness(url=own_server.url)
    harness.actor(print, actor_name="collect").send(1)
    assert worker_name() in own_server.ctl("list_connections", "client_properties")


@pytest.fixture
def never_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let publishers check every connection before they use it."""
    monkeypatch.setattr(client, "_CHECK_AFTER", -1.0)


def test_a_server_that_blocks_publishers_is_an_error_and_nothing_is_enqueued(
    make_harness: MakeHarness, own_server: TlsServer, never_fresh: None
) -> None:
    harness = make_harness(url=own_server.url, options=QUICK)
    actor = harness.actor(print, actor_name="collect")
    actor.send(1)
    own_server.ctl("set_vm_memory_high_watermark", "0.0001")
    try:
        for send in (actor.send, lambda n: harness.broker.enqueue_many([actor.message(n)] * 9)):
            start = time.monotonic()
            with pytest.raises(
                PublishersBlocked, match=r"has blocked publishers .*nothing was enqueued"
            ):
                send(2)
            assert time.monotonic() - start < 30
    finally:
        own_server.ctl("set_vm_memory_high_watermark", "0.6")
    actor.send(3)
    assert harness.broker.counts(harness.queue).waiting == 2


def test_workers_drain_a_server_that_is_short_of_memory(
    make_harness: MakeHarness, own_server: TlsServer
) -> None:
    harness = make_harness(url=own_server.url, options=QUICK)
    ran: list[int] = []
    is_short = Event()

    def work(number: int) -> None:
        if number == 30:
            is_short.wait(20)
        ran.append(number)

    actor = harness.actor(work)
    harness.broker.enqueue_many(actor.message(number) for number in range(200))
    harness.start(threads=1)
    wait_until(lambda: len(ran) >= 30)
    own_server.ctl("set_vm_memory_high_watermark", "0.0001")
    is_short.set()
    try:
        wait_until(lambda: len(ran) == 200)
        names = ("name", "messages")
        wait_until(lambda: f"{harness.queue}\t0" in own_server.ctl("list_queues", "-q", *names))
    finally:
        own_server.ctl("set_vm_memory_high_watermark", "0.6")
    harness.stop()
    assert sorted(ran) == list(range(200))


def test_a_server_that_hangs_is_an_error_within_the_timeout_and_nothing_is_enqueued(
    make_harness: MakeHarness, own_server: TlsServer, never_fresh: None
) -> None:
    harness = make_harness(url=own_server.url, options=QUICK)
    actor = harness.actor(print, actor_name="collect")
    actor.send(1)
    own_server.pause()
    try:
        for _ in range(2):  # on the old connection, then on a new one
            start = time.monotonic()
            with pytest.raises(
                BrokerUnavailable, match=r"nothing within 1 s.*nothing was enqueued"
            ):
                actor.send(2)
            assert time.monotonic() - start < 30
    finally:
        own_server.resume()
    actor.send(3)
    assert harness.broker.counts(harness.queue).waiting == 2


def test_a_server_that_is_not_running_is_an_error(make_harness: MakeHarness) -> None:
    harness = make_harness(url=f"amqp://guest:guest@127.0.0.1:{free_port()}", options=QUICK)
    actor: Any = harness.actor(print, actor_name="collect")
    with pytest.raises(BrokerUnavailable, match=r"check that it runs.*nothing was enqueued"):
        actor.send(1)
