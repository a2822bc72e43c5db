"""The pages on RabbitMQ, where less can be known, and with no shared store."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from formrelay.brokers import BrokerOptions
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.core.errors import SinkPermanent
from tests.ops.dashboard.conftest import Site
from tests.ops.dashboard.helpers import row
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = pytest.mark.shared_vhost


@pytest.fixture
def harness(rabbitmq_url: str, unique: str) -> Iterator[Harness]:
    broker = RabbitBroker(rabbitmq_url, options=BrokerOptions())
    yield Harness(broker, unique)
    broker.close()


def fail(payload: object = None) -> None:
    raise SinkPermanent("the endpoint is gone")


def test_dead_letters_are_found_read_and_replayed_and_the_rest_says_what_is_missing(
    harness: Harness,
) -> None:
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
    assert "listing workers without RABBITMQ_API_URL" in text
    assert "jobs are scheduled on all queues together" in text
    harness.stop()

    for state in ("waiting", "scheduled", "in_flight"):
        missing = site.page(f"/queue?name={queue}&state={state}")
        assert "Not available on this broker." in missing
    dead = site.page(f"/queue?name={queue}&state=dead&error=gone")
    assert "2 found among 2 looked at" in dead
    assert set(re.findall(r'<tr data-key="([^"]+)">', dead)) == set(ids)
    assert site.client.get(f"/find?id={ids[0]}").location == f"/job?queue={queue}&id={ids[0]}"
    job = site.page(f"/job?queue={queue}&id={ids[0]}")
    assert "the endpoint is gone" in job
    assert "Ann" not in job
    assert "Ann Other" in site.post("/job/reveal", queue=queue, id=ids[0]).text

    site.post("/job/act", queue=queue, id=ids[0], do="replay")
    gone = site.page(f"/job?queue={queue}&id={ids[0]}", 404)
    assert "Back on its queue" in gone
    assert "this broker lists only dead letters" in gone
    call = '{"args": [{"name": "Bea"}], "kwargs": {}}'
    site.post("/job/replay-edited", queue=queue, id=ids[1], call=call)
    counts = harness.broker.counts(queue)
    assert (counts.waiting, counts.dead) == (2, 0)
    site.post("/queue/pause", name=queue, do="pause")
    assert "paused" in row(site.page("/"), queue)["Queue"]
