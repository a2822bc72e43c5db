"""RabbitMQ users with exactly the rights that docs/brokers.md names."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import pytest
from dramatiq import Worker

from formrelay.brokers import DeadFilter
from formrelay.brokers.errors import BrokerRefused
from formrelay.core.errors import SinkPermanent, SinkTransient
from formrelay.core.retry import Exponential, RetryPolicy
from tests.brokers.rabbitmq.conftest import MakeHarness, api, cut
from tests.support.checkout import ROOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

#: Configure, write, read, as docs/brokers.md has them.
SENDS = ("^$", r"^(amq\.default|formrelay\.delay\..*)$", "^$")
WORKS = (
    r"^formrelay\.quarantine\..*$",
    r"^(amq\.default|formrelay\.delay\..*|dlx\..*|formrelay\.quarantine\..*)$",
    ".*",
)
OPERATES = (r"^formrelay\.(look|paused|running)\..*$", r"^amq\.default$", ".*")

Login = Callable[[str, tuple[str, str, str]], str]


@pytest.fixture
def login(rabbitmq_url: str, unique: str) -> Login:
    """Create a user with rights; returns its URL."""
    base = os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"]

    def make(name: str, rights: tuple[str, str, str]) -> str:
        user = f"{unique}-{name}"
        api(base, f"users/{user}", method="PUT", body={"password": "secret", "tags": ""})
        body = dict(zip(("configure", "write", "read"), rights, strict=True))
        api(base, f"permissions/{unique}/{user}", method="PUT", body=body)
        parts = urlsplit(rabbitmq_url)
        where = f"{user}:secret@{parts.hostname}:{parts.port}"
        return parts._replace(netloc=where).geturl()

    return make


def names(unique: str, kind: str) -> set[str]:
    """Names of the queues or exchanges of the virtual host of this test."""
    base = os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"]
    return {one["name"] for one in api(base, f"{kind}/{unique}")}


def test_the_documented_rights_suffice(
    make_harness: MakeHarness, login: Login, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    owner = make_harness()
    owner.actor(print, actor_name="job")
    owner.broker.counts(unique)  # as `formrelay queues` does
    everything = names(unique, "queues"), names(unique, "exchanges")
    worker = make_harness(url=login("works", WORKS))
    ran: list[int] = []

    def job(number: int) -> None:
        ran.append(number)
        if number == 1 and ran.count(1) == 1:
            raise SinkTransient("not yet")
        if number == 2:
            raise SinkPermanent("no")

    soon = RetryPolicy(backoff=Exponential(base=worker.broker.options.connect_timeout / 100))
    worker.actor(job, actor_name="job", policy=soon)
    assert worker.broker.try_access() == []
    sender = make_harness(url=login("sends", SENDS))
    sending = sender.actor(print, actor_name="job")
    worker.start()
    sending.send(1)
    sending.send(2)
    sending.send_with_options(args=(3,), delay=100)
    wait_until(lambda: sorted(ran) == [1, 1, 2, 3])

    operator = make_harness(url=login("operates", OPERATES))
    operator.actor(print, actor_name="job")
    inspector = operator.broker.inspector
    wait_until(lambda: operator.broker.counts(unique).dead == 1)
    assert inspector.replay(DeadFilter(unique)) == 1
    wait_until(lambda: ran.count(2) == 2)
    inspector.pause(unique)
    inspector.resume(unique)
    inspector.purge(unique)
    worker.stop()
    assert (names(unique, "queues"), names(unique, "exchanges")) == everything
    assert not [
        one
        for one in caplog.records
        if one.levelno >= logging.WARNING
        and one.name == "formrelay.brokers"
        and "dead" not in one.getMessage()
    ]
    documented = (ROOT / "docs/brokers.md").read_text()
    for name, rights in {"sender": SENDS, "worker": WORKS, "operator": OPERATES}.items():
        assert f"set_permissions {name} {' '.join(map(repr_of, rights))}" in documented


def repr_of(right: str) -> str:
    return f"'{right}'"


def test_a_worker_without_rights_to_configure_works_and_names_weaker_promises(
    make_harness: MakeHarness, login: Login, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    owner = make_harness()
    owner.actor(print, actor_name="job")
    owner.broker.counts(unique)
    harness = make_harness(url=login("plain", ("^$", ".*", ".*")))
    begun, go_on = Event(), Event()
    ran: list[int] = []

    def job(number: int) -> None:
        begun.set()
        go_on.wait(10)
        ran.append(number)

    actor = harness.actor(job, actor_name="job")
    (weakness,) = harness.broker.try_access()
    assert "a message that kills its workers is retried forever" in weakness
    assert "formrelay.quarantine." in weakness
    actor.send(1)
    harness.start()
    assert begun.wait(60)
    cut(harness)  # RabbitMQ redelivers it, now as a suspect
    go_on.set()
    wait_until(lambda: ran == [1, 1])
    assert "cannot count the workers that a message kills" in caplog.text
    with pytest.raises(BrokerRefused, match=r"right to configure 'formrelay\.look"):
        harness.broker.inspector.dead_letter(unique, "any")


def test_a_missing_queue_that_may_not_be_declared_is_named(
    make_harness: MakeHarness, login: Login, unique: str
) -> None:
    make_harness(queue=f"{unique}.other").broker.ping([f"{unique}.other"])
    harness = make_harness(url=login("plain", ("^$", ".*", ".*")))
    actor = harness.actor(print, actor_name="job")
    with pytest.raises(
        BrokerRefused, match=f"expected 'dlx.{unique}' to exist, or the right to declare"
    ):
        actor.send(1)
    # The user may declare its own queues, and no others.
    own = rf"^(dlx\.|dlq\.|formrelay\.(quarantine|running|paused)\.)?{unique}(\..*)?$"
    harness = make_harness(url=login("own", (own, ".*", ".*")))
    harness.actor(print, actor_name="job").send(1)
    assert harness.broker.counts(unique).waiting == 1


@pytest.mark.parametrize(
    ("lacks", "rights"),
    [
        ("queue '{unique}'", ("^$", ".*", r"^dlq\..*$")),
        ("exchange 'amq.default'", ("^$", r"^(formrelay\..*|dlx\..*)$", ".*")),
        ("exchange 'formrelay.delay.", ("^$", r"^(amq\.default|dlx\..*)$", ".*")),
        ("exchange 'dlx.{unique}'", ("^$", r"^(amq\.default|formrelay\..*)$", ".*")),
    ],
    ids=["fetch", "send", "retry", "bury"],
)
def test_a_missing_right_is_named(
    make_harness: MakeHarness, login: Login, unique: str, lacks: str, rights: tuple[str, str, str]
) -> None:
    owner = make_harness()
    owner.actor(print, actor_name="job")
    owner.broker.counts(unique)
    harness = make_harness(url=login("lacking", rights))
    harness.actor(print, actor_name="job")
    harness.broker.ping()
    expected = lacks.format(unique=unique)
    with pytest.raises(BrokerRefused, match=rf"send, fetch and settle.*{expected}"):
        harness.broker.try_access()


def test_a_worker_of_one_queue_uses_only_that_queue(
    make_harness: MakeHarness, login: Login, unique: str
) -> None:
    own = rf"(dlx\.|dlq\.|formrelay\.(quarantine|running|paused)\.)?{unique}(\..*)?"
    shared = r"formrelay\.delay\..*|amq\.default"
    harness = make_harness(url=login("one", (f"^({own}|{shared})$", f"^({own}|{shared})$", ".*")))
    ran: list[Any] = []
    actor = harness.actor(ran.append, actor_name="job")
    harness.broker.declare_queue("another")
    harness.broker.ping([unique])
    worker = harness.worker = Worker(harness.broker, queues={unique}, worker_timeout=200)
    worker.start()
    actor.send(1)
    wait_until(lambda: ran == [1])
    assert not [
        one for one in names(unique, "queues") | names(unique, "exchanges") if "another" in one
    ]
