"""The pages on RabbitMQ, where less can be known, and with no shared store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import pytest

from formrelay.brokers import BrokerOptions
from formrelay.brokers.envelope import encode
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.dead_letters import DeadLetterReader
from formrelay.core.errors import SinkPermanent
from formrelay.ops.dashboard import dead_query
from formrelay.ops.dashboard.pages import dead as pages_dead
from tests.ops.dashboard.conftest import Site
from tests.ops.dashboard.helpers import row, rows
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = pytest.mark.shared_vhost


@pytest.fixture
def harness(rabbitmq_url: str, unique: str) -> Iterator[Harness]:
    broker = RabbitBroker(rabbitmq_url, options=BrokerOptions())
    yield Harness(broker, unique)
    broker.close()


@pytest.fixture
def make_broker(rabbitmq_url: str) -> Iterator[Callable[..., RabbitBroker]]:
    """Create more brokers, as other processes have them; closed after the test."""
    made: list[RabbitBroker] = []

    def make(**options: Any) -> RabbitBroker:
        made.append(RabbitBroker(rabbitmq_url, options=BrokerOptions(), **options))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


def fail(payload: object = None) -> None:
    raise SinkPermanent("the endpoint is gone")


def test_dead_letters_are_found_read_and_replayed_and_the_rest_says_what_is_missing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.ops.caused_jobs._SECONDS", 60)  # for a slow machine
    site, queue = Site(harness.broker), harness.queue
    actor = harness.actor(fail, actor_name=f"fail_{queue}")
    ids = [actor.send({"name": "Ann Other"}).message_id for _ in range(2)]
    harness.start()
    wait_until(lambda: harness.broker.counts(queue).dead == 2)
    text = site.page("/")
    found = row(text, queue)
    assert "no worker" not in found["Queue"]
    cells = [found[name] for name in ("Waiting", "Scheduled", "In flight", "Dead")]
    assert cells == ["0", "n/a", "n/a", "2"]
    assert "Rates and durations need a shared store" in text
    assert "listing workers: not available on this broker; set RABBITMQ_API_URL" in text
    assert "jobs are scheduled on all queues together" in text
    harness.stop()

    for state in ("waiting", "scheduled", "in_flight"):
        missing = site.page(f"/queue?name={queue}&state={state}")
        assert "Not available on this broker." in missing
    dead = site.page(f"/queue?name={queue}&state=dead&error=gone")
    assert "2 found among 2 looked at" in dead
    assert set(re.findall(r'<tr data-key="([^"]+)">', dead)) == set(ids)
    assert site.client.get(f"/find?id={ids[0]}").location == f"/job?queue={queue}&id={ids[0]}"
    assert site.client.get(f"/find?id={ids[0][:13]}").location.endswith(f"&id={ids[0]}")
    job = site.page(f"/job?queue={queue}&id={ids[0]}")
    assert "the endpoint is gone" in job
    assert "looked at all 2 dead letters of all queues; this broker lists no others" in job
    assert "Ann" not in job
    assert "Ann Other" in site.post("/job/reveal", queue=queue, id=ids[0]).text

    site.post("/job/act", queue=queue, id=ids[0], do="replay")
    gone = site.page(f"/job?queue={queue}&id={ids[0]}", 404)
    assert "Back on its queue" in gone
    assert "this broker lists only dead letters" in gone
    call = '{"args": [{"name": "Bea"}], "kwargs": {}}'
    site.post("/job/replay-edited", queue=queue, id=ids[1], call=call)
    assert harness.broker.counts(queue).waiting == 2
    # RabbitMQ does not confirm that it has removed a dead letter.
    wait_until(lambda: harness.broker.counts(queue).dead == 0)
    assert "belongs to another process" in site.page("/task?id=none", 404)
    assert "tasks of other processes are not shown" in site.page("/tasks")
    assert "in the memory of this process" in site.page("/audit")
    site.post("/queue/pause", name=queue, do="pause")
    assert "paused" in row(site.page("/"), queue)["Queue"]


def test_a_page_names_a_management_api_that_fails_and_shows_everything_else(
    harness: Harness, make_broker: Callable[..., RabbitBroker]
) -> None:
    harness.actor(fail, actor_name=f"fail_{harness.queue}").send()
    broker = make_broker(management_url="http://user:secret@127.0.0.1:1/api")
    broker.declare_queue(harness.queue)
    text = Site(broker).page("/")
    assert row(text, harness.queue)["Waiting"] == "1"
    assert "management API at 127.0.0.1:1 to answer" in text
    assert "messages in flight are not counted" in text
    assert "secret" not in text


def test_numbers_of_dead_letters_that_a_process_reads_are_shown_at_once_with_their_age(
    harness: Harness, make_broker: Callable[..., RabbitBroker]
) -> None:
    queue, inspector = harness.queue, harness.broker.inspector
    actor = harness.actor(fail, actor_name=f"fail_{queue}")
    harness.bury([(id, encode(actor.message().copy(message_id=id))) for id in "ab"])
    site, other = Site(harness.broker), make_broker()
    other.declare_queue(queue)
    assert row(site.page("/"), queue)["Dead"] == "2"
    with DeadLetterReader(harness.broker.client, queue) as reader:  # type: ignore[attr-defined]
        assert len(list(reader.fetch())) == 1
        assert row(site.page("/"), queue)["Dead"] == "2 0s ago"
        assert row(Site(other).page("/"), queue)["Dead"] == "≥ 0"
        assert "at least 0 in all queues" in Site(other).page("/dead?window=hour&queue=none")
    assert inspector.counts(queue).dead == 2


def test_lists_and_groups_say_that_the_oldest_letters_were_looked_at(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, queue = Site(harness.broker), harness.queue
    actor = harness.actor(fail, actor_name=f"fail_{queue}")
    ids = []
    harness.start()
    for count in range(1, 4):  # one by one, since an id of the same millisecond may be first
        ids.append(actor.send().message_id)
        wait_until(lambda: harness.broker.counts(queue).dead == count)  # noqa: B023
    harness.stop()
    monkeypatch.setattr(pages_dead, "_LETTERS", 2)
    path = f"/dead/letters?queue={queue}"
    first = site.page(path)
    assert [text.split()[0] for text in rows(first)] == ids[:0:-1]
    (more,) = re.findall(r'<a href="([^"]*)">Next page', first)
    assert [text.split()[0] for text in rows(site.page(unescape(more)))] == ids[:1]

    says = "looked at 2 dead letters, the oldest of each queue, which RabbitMQ delivers first"
    for module in (pages_dead, dead_query):
        monkeypatch.setattr(module, "LOOK_AT", 2)
    text = site.page(path)
    assert says in text
    assert [text.split()[0] for text in rows(text)] == ids[1::-1]
    assert "Next page" not in text  # of the letters that RabbitMQ delivered, these are all
    assert says in site.page(f"/dead?queue={queue}")
