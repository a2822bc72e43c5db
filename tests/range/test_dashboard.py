"""dramatiq-dashboard 0.4.0, its last release, works with a stock broker on formrelay's queues.

Its metadata asks for dramatiq 1 and redis 4, which `.venv-oldest` has; in the other environments
these tests run with the newest versions.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from dramatiq.errors import DecodeError

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import SinkPermanent
from tests.support.harness import Harness
from tests.support.pages import DashboardPages
from tests.support.waiting import wait_until

dashboard = pytest.importorskip("dramatiq_dashboard")


class Site:
    """A formrelay broker, and the dashboard with a stock broker on the same Redis."""

    def __init__(self, url: str, queue: str) -> None:
        from dramatiq.brokers.redis import RedisBroker as StockBroker

        broker = RedisBroker(url, options=BrokerOptions())
        self.harness, self.client = Harness(broker, queue), broker.client
        self.queue = queue
        self.stock = StockBroker(url=url)
        self.stock.declare_queue(queue)
        self.app = dashboard.DashboardApp(self.stock, "/drama")
        self.get = DashboardPages(self.app, "/drama").get

    def tab(self, name: str) -> str:
        return self.get(f"/queues/{self.queue}/{name}")

    def counts(self) -> tuple[int, int, int]:
        (found,) = [one for one in self.app.iface.queues if one.name == self.queue]
        return found.jobs, found.jobs_delayed, found.jobs_dead

    def close(self) -> None:
        self.harness.close()
        self.stock.close()


@pytest.fixture
def site(redis_url: str, unique: str) -> Iterator[Site]:
    site = Site(redis_url, unique)
    yield site
    site.close()


def refuse(answer: str) -> None:
    raise SinkPermanent("it will not have it")


def declared(site: Site, function: Callable[..., Any] = refuse) -> Any:
    return site.harness.actor(function, actor_name="refuse")


def test_waiting_scheduled_and_dead_messages_are_counted_and_listed(site: Site) -> None:
    actor = declared(site)
    dead = actor.send("dead")
    site.harness.start()
    wait_until(site.harness.dead)
    site.harness.stop()
    waiting = actor.send("waiting")
    scheduled = actor.send_with_options(args=("later",), delay=timedelta(hours=1))
    assert site.counts() == (1, 1, 1)
    assert site.queue in site.get("/")
    for tab, message in (("standard", waiting), ("delayed", scheduled), ("failed", dead)):
        page = site.tab(tab)
        assert message.message_id in page
        assert "refuse" in page
        assert message.message_id in site.get(f"/queues/{site.queue}/{tab}/{message.message_id}")
    assert "it will not have it" in site.get(f"/queues/{site.queue}/failed/{dead.message_id}")


def test_messages_in_flight_are_listed_and_our_workers_are_not(site: Site) -> None:
    # It lists stock workers only, because stock maintenance takes the messages of silent workers.
    go, begun = threading.Event(), threading.Event()

    def work(answer: str) -> None:
        begun.set()
        go.wait(10)

    message = declared(site, work).send("in flight")
    site.harness.start()
    try:
        assert begun.wait(60)
        assert message.message_id in site.tab("standard")
        assert site.app.iface.workers == []
    finally:
        go.set()


def test_messages_are_deleted_and_requeued_and_our_worker_runs_them(site: Site) -> None:
    actor = declared(site)
    kept, gone = actor.send("kept"), actor.send("gone")
    site.harness.start()
    wait_until(lambda: len(site.harness.dead()) == 2)
    site.harness.stop()
    failed = f"{site.queue}.XQ"
    assert gone.message_id not in site.get("/delete-message", queue=failed, id=gone.message_id)
    (letter,) = site.harness.dead()
    assert letter.id == kept.message_id
    site.get("/requeue-message", queue=failed, id=kept.message_id)
    assert site.counts()[2] == 0
    site.harness.start()
    wait_until(site.harness.dead)  # dead-lettered again, so it ran
    assert site.counts() == (0, 0, 1)


def test_a_scheduled_message_is_deleted(site: Site) -> None:
    message = declared(site).send_with_options(args=("later",), delay=timedelta(hours=1))
    site.get("/delete-message", queue=f"{site.queue}.DQ", id=message.message_id)
    assert site.harness.is_empty()


def test_undecodable_bytes_are_shown_without_an_error(site: Site) -> None:
    declared(site)
    site.harness.inject(b"\x00 no message")
    site.harness.start()
    (letter,) = wait_until(site.harness.dead)
    site.harness.stop()
    assert letter.id in site.tab("failed")
    assert "formrelay:quarantine" in site.get(f"/queues/{site.queue}/failed/{letter.id}")


def test_known_limit_a_plain_job_in_flight_breaks_the_tab_of_its_queue(
    site: Site,
) -> None:
    # It decodes every body in the hash as a Dramatiq message. A plain job of the inbox is stored
    # unchanged until it is settled. The start page and other tabs still work.
    site.client.hset(f"dramatiq:{site.queue}.msgs", "inbox-1", b'{"type": "a"}')
    with pytest.raises(DecodeError):
        site.tab("standard")
    assert site.queue in site.get("/")
    assert re.search("failed", site.tab("failed"))
