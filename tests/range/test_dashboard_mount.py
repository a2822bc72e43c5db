"""formrelay.ops.dramatiq_dashboard: dramatiq-dashboard on formrelay's inspector.

These tests run with the oldest and with the newest versions of Dramatiq and redis.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.inspection import State
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import ConfigError, SinkPermanent
from formrelay.ops import dramatiq_dashboard
from formrelay.state import make_audit_log
from formrelay.testing import MemoryBroker
from tests.support.browser import browser
from tests.support.harness import Harness
from tests.support.http_server import running
from tests.support.pages import DashboardPages
from tests.support.waiting import wait_until

pytest.importorskip("dramatiq_dashboard")

PREFIX = "/drama"


class Site(Harness):
    """A broker with a worker, and the mounted dashboard."""

    def __init__(self, url: str, queue: str) -> None:
        broker = RedisBroker(url, options=BrokerOptions())
        super().__init__(broker, queue)
        self.client, self.commands, self.inspector = (
            broker.client,
            broker.commands,
            broker.inspector,
        )
        app = dramatiq_dashboard.make_app(broker, PREFIX, reveal=True)
        self.pages = DashboardPages(app, PREFIX)

    def tab(self, name: str, cursor: str = "") -> str:
        return self.pages.get(f"/queues/{self.queue}/{name}?cursor={cursor}")

    def post(self, action: str, queue: str, id: str, token: str = "t") -> str:
        """Post a form of a page; return the status."""
        form = {"queue": queue, "id": id, "__dd_csrf": token}
        return self.pages.call(f"/{action}-message", form)[0]

    def counts(self) -> tuple[int, int | None, int | None, int]:
        found = self.inspector.counts(self.queue)
        return found.waiting, found.scheduled, found.in_flight, found.dead

    def kill(self, *messages: object) -> None:
        """Have a worker dead-letter the waiting messages."""
        self.start()
        wait_until(lambda: len(self.dead()) >= len(messages))
        self.stop()

    def keys_with(self, id: str) -> set[str]:
        """The keys of Redis that hold an id, as member or field."""
        readers = {"list": "lrange", "set": "smembers", "hash": "hkeys", "zset": "zrange"}
        found = set()
        for key in self.client.scan_iter():
            reader = readers.get(self.client.type(key).decode())
            arguments = (0, -1) if reader in ("lrange", "zrange") else ()
            if reader and id.encode() in getattr(self.client, reader)(key, *arguments):
                found.add(key.decode())
        return found


@pytest.fixture
def site(redis_url: str, unique: str) -> Iterator[Site]:
    site = Site(redis_url, unique)
    yield site
    site.close()


class _Silent(WSGIRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def _served(pages: DashboardPages) -> Iterator[str]:
    """Serve the dashboard under its prefix; yield the URL of its start page."""

    def mounted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"].removeprefix(pages.prefix)
        return pages.app({**environ, "PATH_INFO": path}, start_response)

    with running(make_server("127.0.0.1", 0, mounted, handler_class=_Silent)) as port:
        yield f"http://127.0.0.1:{port}{pages.prefix}/"


def refuse(answer: str) -> None:
    raise SinkPermanent("it will not have it")


def declared(site: Site, function: Callable[..., Any] = refuse) -> Any:
    return site.actor(function, actor_name="refuse")


def test_jobs_of_each_state_are_counted_listed_and_shown(site: Site) -> None:
    actor = declared(site)
    dead = actor.send("dead")
    site.kill(dead)
    waiting = actor.send_with_options(args=("waiting",), broker_priority=7)
    scheduled = actor.send_with_options(args=("later",), delay=timedelta(hours=1))
    site.inspector.pause("another_queue")  # no process declares it
    start = site.pages.get("/")
    assert f"{PREFIX}/queues/another_queue" in start
    assert re.search(rf"{site.queue}\s*</a>\s*</td>(\s*<td [^>]*>\s*1\s*</td>){{3}}", start)
    for tab, message in (("standard", waiting), ("delayed", scheduled), ("failed", dead)):
        assert message.message_id in site.tab(tab)
        job = site.pages.get(f"/queues/{site.queue}/{tab}/{message.message_id}")
        assert message.args[0] in job
    assert "it will not have it" in site.pages.get(f"/queues/{site.queue}/failed/{dead.message_id}")


def test_payloads_are_masked_unless_the_mount_reveals_them(site: Site) -> None:
    text = "ada@example.com"
    message = declared(site).send_with_options(args=(text,), kwargs={"name": text})
    masked = DashboardPages(dramatiq_dashboard.make_app(site.broker, PREFIX), PREFIX)
    for path in (f"/queues/{site.queue}", f"/queues/{site.queue}/standard/{message.message_id}"):
        assert text in site.pages.get(path)
        page = masked.get(path)
        assert text not in page
        assert "••• 15 characters" in page
        assert "name" in page


def test_each_job_is_on_one_page_in_the_order_of_delivery(site: Site) -> None:
    actor = declared(site)
    sent = [actor.send(f"job {number}").message_id for number in range(250)]
    listed, cursor = [], ""
    while True:
        page = site.tab("standard", cursor)
        listed += re.findall(r"/standard/([0-9a-f-]{36})\"", page)
        following = re.search(r"\?cursor=([^\"]+)", page)
        if following is None:
            break
        cursor = following[1]
    assert listed == sent


def test_a_cursor_of_another_tab_shows_the_first_page(site: Site) -> None:
    message = declared(site).send("a")
    for cursor in ("d,1,x", "7", "wrong", "w,1"):
        assert message.message_id in site.tab("standard", cursor)


def test_workers_and_their_jobs_in_flight_are_listed_and_not_deleted(site: Site) -> None:
    go, begun = threading.Event(), threading.Event()

    def work(answer: str) -> None:
        begun.set()
        go.wait(60)

    message = declared(site, work).send("in flight")
    site.start()
    try:
        assert begun.wait(60)
        (worker,) = site.inspector.workers()
        assert re.search(rf"{worker.name}\s*</td>\s*<td [^>]*>\s*1\s*</td>", site.pages.get("/"))
        assert message.message_id in site.tab("standard")
        assert site.post("delete", site.queue, message.message_id) == "410 Gone"
        assert site.counts() == (0, 0, 1, 0)
    finally:
        go.set()


@pytest.mark.parametrize("priority", [None, 7])
@pytest.mark.parametrize("state", ["", ".DQ", ".XQ"])
def test_a_deleted_job_leaves_nothing_in_any_key(
    site: Site, state: str, priority: int | None
) -> None:
    actor = declared(site)
    delay = timedelta(hours=1) if state == ".DQ" else None
    message, kept = (
        actor.send_with_options(args=(text,), broker_priority=priority, delay=delay)
        for text in ("gone", "kept")
    )
    if state == ".XQ":
        site.kill(message, kept)
    of_both = site.keys_with(kept.message_id)
    assert site.keys_with(message.message_id) == of_both != set()
    assert site.post("delete", site.queue + state, message.message_id) == "302 Found"
    assert site.keys_with(message.message_id) == set()
    assert site.keys_with(kept.message_id) == of_both
    assert sum(count or 0 for count in site.counts()) == 1
    assert site.post("delete", site.queue + state, message.message_id) == "410 Gone"


def test_a_requeued_dead_letter_is_a_new_job_with_its_priority(site: Site) -> None:
    actor = declared(site)
    message = actor.send_with_options(args=("again",), broker_priority=7)
    fresh = site.inspector.find(message.message_id, site.queue)
    keys = site.keys_with(message.message_id)
    site.kill(message)
    assert site.post("requeue", f"{site.queue}.XQ", message.message_id) == "302 Found"
    found = site.inspector.find(message.message_id, site.queue)
    assert found is not None
    assert found.state is State.WAITING
    assert fresh is not None
    del found.message.options["attempt_history"]
    assert found.message == fresh.message
    assert site.keys_with(message.message_id) == keys
    site.kill(message)  # it runs again, and is dead-lettered again
    assert site.counts() == (0, 0, 0, 1)


def test_requeueing_twice_makes_one_job(site: Site) -> None:
    message = declared(site).send("again")
    site.kill(message)
    failed = f"{site.queue}.XQ"
    answers = [site.post("requeue", failed, message.message_id) for _ in range(2)]
    assert answers == ["302 Found", "410 Gone"]
    assert site.counts() == (1, 0, 0, 0)


def test_changes_are_in_the_audit_log(site: Site) -> None:
    actor = declared(site)
    again, gone, waiting = (actor.send(text).message_id for text in ("again", "gone", "waiting"))
    assert site.post("delete", site.queue, waiting) == "302 Found"
    site.kill(again, gone)
    for action, id in (("requeue", again), ("delete", gone), ("delete", gone)):
        site.post(action, f"{site.queue}.XQ", id)
    found = make_audit_log(site.broker.state).newest().entries
    assert [(entry.action, entry.target) for entry in found] == [
        ("dlq delete", gone),
        ("dlq replay", again),
        ("jobs cancel", waiting),
    ]
    assert {entry.who for entry in found} == {"dramatiq-dashboard"}


def test_a_forged_form_changes_nothing(site: Site) -> None:
    message = declared(site).send("kept")
    assert site.post("delete", site.queue, message.message_id, token="other") == "403 Forbidden"
    assert site.pages.call("/delete-message", {})[0] == "405 Method Not Allowed"
    assert site.counts() == (1, 0, 0, 0)


def test_forms_with_names_of_other_keys_are_refused(site: Site) -> None:
    declared(site).send("kept")
    keys = sorted(site.client.scan_iter())
    for queue in ("", ".XQ", "__workers__", "__workers__.XQ", f"{site.queue}.msgs", "nothing"):
        for action in ("delete", "requeue"):
            assert site.post(action, queue, "") == "410 Gone"
    assert sorted(site.client.scan_iter()) == keys


def test_plain_jobs_and_undecodable_bytes_are_shown(site: Site) -> None:
    declared(site)
    inbox = site.commands.keys.inbox(site.queue)
    site.broker.job_types["refuse"] = "refuse"
    site.client.rpush(inbox, b'{"type": "refuse", "payload": {"a": "in the inbox"}}')
    assert "in the inbox" in site.tab("standard")
    site.client.delete(inbox)
    site.inject(b"\x00 no message")
    site.start()
    (letter,) = wait_until(site.dead)
    site.stop()
    assert letter.id in site.tab("failed")
    job = site.pages.get(f"/queues/{site.queue}/failed/{letter.id}")
    assert "formrelay:quarantine" in job


def test_an_unknown_queue_or_job_leads_back(site: Site) -> None:
    assert "Worker" in site.pages.get("/queues/nothing")
    site.inspector.pause(site.queue)
    assert "no jobs in this queue" in site.pages.get(f"/queues/{site.queue}/failed/unknown")


def test_another_broker_is_refused() -> None:
    with pytest.raises(ConfigError, match="formrelay dashboard"):
        dramatiq_dashboard.make_app(MemoryBroker())


def test_a_job_is_requeued_and_another_deleted_in_a_browser(site: Site) -> None:
    pytest.importorskip("playwright")
    actor = declared(site)
    again, gone = actor.send("<script>document.body.remove()</script>"), actor.send("gone")
    site.kill(again, gone)
    with _served(site.pages) as url, browser() as program:
        page = program.new_page()
        page.goto(url)
        page.click(f"text={site.queue}")
        page.click("text=Failed")
        row = page.locator("tr", has_text="document.body.remove")
        assert row.get_by_role("link").inner_text().startswith("refuse('<script>")
        row.get_by_role("button", name="Requeue").click()
        page.wait_for_url("**/failed")
        assert site.counts() == (1, 0, 0, 1)
        page.locator("tr", has_text="gone").get_by_role("link").click()
        page.get_by_role("button", name="Delete").click()
        page.wait_for_url("**/failed")
        assert page.locator("text=no jobs in this queue").is_visible()
    assert site.counts() == (1, 0, 0, 0)
