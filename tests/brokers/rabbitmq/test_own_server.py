"""Tests that stop, block or limit RabbitMQ, with a server that they share.

It takes 4 s of CPU to start, so these tests are in one file.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.envelope import encode
from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.rabbitmq import client
from formrelay.brokers.rabbitmq.errors import PublishersBlocked
from formrelay.core.errors import SinkPermanent, SinkTransient
from formrelay.core.failure import Reason, worker_name
from tests.brokers.rabbitmq.conftest import OPTIONS, MakeHarness, consumer_of, cut
from tests.brokers.rabbitmq.test_crash_loops import send_suspect
from tests.brokers.rabbitmq.test_refused import SOON
from tests.conftest import own
from tests.support.certificates import Authority
from tests.support.harness import Harness
from tests.support.servers import RabbitServer, ServerError
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]

QUICK = BrokerOptions(connect_timeout=timedelta(seconds=1))
#: The largest message that the server of these tests takes.
LIMIT = 100_000


class OwnServer(RabbitServer):
    """A server that also accepts TLS and refuses messages larger than LIMIT.

    Its certificate is of a private authority.
    """

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
            f"max_message_size = {LIMIT}\n"
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
def own_server() -> Iterator[OwnServer]:
    """A server that the tests of this file share."""
    with own(OwnServer) as server:
        yield server


# -- connections ---------------------------------------------------------------------------------


def test_tls_certificates_are_verified_with_a_private_authority(
    make_harness: MakeHarness, own_server: OwnServer, tmp_path: Path
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


def test_a_connection_names_its_process(make_harness: MakeHarness, own_server: OwnServer) -> None:
    harness = make_harness(url=own_server.url)
    harness.actor(print, actor_name="collect").send(1)
    assert worker_name() in own_server.ctl("list_connections", "client_properties")


@pytest.fixture
def never_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let publishers check every connection before they use it."""
    monkeypatch.setattr(client, "_CHECK_AFTER", -1.0)


def test_a_server_that_blocks_publishers_is_an_error_and_nothing_is_enqueued(
    make_harness: MakeHarness, own_server: OwnServer, never_fresh: None
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
    make_harness: MakeHarness, own_server: OwnServer
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
    make_harness: MakeHarness, own_server: OwnServer, never_fresh: None
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


# -- messages that are too large -----------------------------------------------------------------


@pytest.fixture
def small(make_harness: MakeHarness, own_server: OwnServer) -> Harness:
    return make_harness(url=own_server.url)


def filled(actor: Any, **options: Any) -> Any:
    """A message of the actor that is a few bytes smaller than LIMIT."""
    empty = actor.message_with_options(kwargs={"text": ""}, **options)
    return empty.copy(kwargs={"text": "x" * (LIMIT - 10 - len(encode(empty)))})


def test_undecodable_bytes_near_the_servers_limit_are_dead_lettered(small: Harness) -> None:
    ran = Event()
    actor = small.actor(ran.set, actor_name="note")
    small.inject(b"\xff" * (LIMIT - 10))
    actor.send()
    small.start()
    (letter,) = wait_until(small.dead)
    assert letter.failure.reason is Reason.UNDECODABLE
    assert ran.wait(60)
    wait_until(small.is_empty)


@pytest.mark.parametrize("error", [SinkPermanent("no"), SinkTransient("away")])
def test_a_message_whose_failure_record_makes_it_too_large_is_dead_lettered_as_received(
    small: Harness, error: Exception
) -> None:
    works, ran = Event(), Event()

    def fail(text: str) -> None:
        if not works.is_set():
            raise error

    actor = small.actor(fail, actor_name="fail", policy=SOON)
    message = filled(actor)
    small.broker.enqueue(message)
    small.actor(ran.set, actor_name="note").send()
    small.start(threads=1)
    (letter,) = wait_until(small.dead)
    assert ran.wait(60)
    wait_until(small.is_empty)
    if isinstance(error, SinkPermanent):
        assert letter.failure.reason is Reason.PERMANENT
        assert letter.message.kwargs == message.kwargs
    else:
        assert letter.failure.reason is Reason.UNDECODABLE
        assert "message size" in letter.failure.message
    works.set()
    assert small.broker.replay(small.queue, letter.id)
    wait_until(lambda: not small.dead() and small.is_empty())


def test_a_batch_that_is_too_large_to_freeze_is_retried_part_by_part(
    small: Harness,
) -> None:
    batches: list[int] = []

    def fail_at_first(batch: list[Any]) -> None:
        batches.append(len(batch))
        if len(batches) == 1:
            raise SinkTransient("away")

    actor = small.actor(
        fail_at_first,
        actor_name="collect",
        policy=SOON,
        batch_size=4,
        batch_wait=timedelta(seconds=2),
    )
    for _ in range(4):
        actor.send(text="x" * (LIMIT // 3))
    small.start()
    wait_until(lambda: sum(batches) == 8 and small.is_empty())
    assert small.dead() == []


# -- a quarantine queue that is lost -------------------------------------------------------------


def quarantine_queue_of(harness: Harness) -> str:
    return consumer_of(harness)._quarantine.queue


def test_no_run_starts_before_the_quarantine_queue_survives_a_killed_server(
    make_harness: MakeHarness, own_server: OwnServer
) -> None:
    """The original is acknowledged then, and its copy would be lost with the queue."""
    harness = make_harness(url=own_server.url)
    forgotten: list[str] = []

    def work() -> None:
        try:
            own_server.wait_on_disk(quarantine_queue_of(harness), timeout=0)
            forgotten.append("")
        except ServerError as error:
            forgotten.append(str(error))

    actor = harness.actor(work, actor_name="work")
    send_suspect(harness, own_server.url, actor)
    harness.start(threads=1)
    wait_until(lambda: forgotten)
    assert forgotten == [""]


def test_a_consumer_keeps_working_while_its_quarantine_queue_has_no_leader(
    make_harness: MakeHarness, own_server: OwnServer
) -> None:
    options = replace(OPTIONS, connect_timeout=timedelta(seconds=1))
    harness = make_harness(url=own_server.url, options=options)
    ran: list[str] = []
    actor = harness.actor(lambda: ran.append("one"), actor_name="work")
    send_suspect(harness, own_server.url, actor)
    harness.start(threads=1)
    wait_until(lambda: len(ran) == 1)
    lost = quarantine_queue_of(harness)
    server_id = f"{{'%2F_{lost}', node()}}"
    own_server.ctl("eval", f"ra:stop_server(quorum_queues, {server_id}).")
    cut(harness)
    actor.send()
    wait_until(lambda: len(ran) == 2)
