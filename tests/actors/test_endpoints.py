"""Endpoints do not affect each other: through a worker, to real receivers."""

from __future__ import annotations

from datetime import timedelta
from threading import Event
from typing import Any

import pytest
import stripe

from formrelay.actors.webhooks import resources as deliveries
from formrelay.actors.webhooks.endpoint_state import EndpointLimits
from formrelay.actors.webhooks.limiter import EndpointLimiter
from formrelay.actors.webhooks.registry import Changes, DisableRules, MemoryRegistry, Position
from formrelay.actors.webhooks.registry_sync import RegistrySync
from formrelay.core.failure import Reason
from formrelay.ops.metrics.process_counts import open_breakers
from tests.actors.conftest import Site
from tests.actors.receiver import Answer, Receiver
from tests.middleware.lines import Lines
from tests.support.waiting import wait_until

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def webhook(receiver: Receiver, path: str, **changes: Any) -> dict[str, Any]:
    return {"url": f"{receiver.url}{path}", "body": {}, "secret": KEY, **changes}


@pytest.mark.slow
def test_a_hanging_endpoint_delays_no_other(site: Site, receiver: Receiver) -> None:
    site.use(webhooks={"endpoint_concurrency": 1})
    receiver.answers("/slow", then=Answer(after=3))
    send = site.actors.deliver_webhook.send
    for _ in range(2):
        send(webhook(receiver, "/slow"))
    for number in range(40):
        send(webhook(receiver, f"/quick/{number % 10}"))
    site.start("webhooks")
    wait_until(lambda: len(receiver.of("/slow")) == 2)
    assert len(receiver.requests) == 42  # all others came before the first slow one ended
    slow = [request.at for request in receiver.of("/slow")]
    assert slow[1] - slow[0] > 2.9
    wait_until(lambda: site.is_idle("webhooks"))
    site.stop()
    assert site.dead("webhooks") == []


def test_open_circuits_are_counted_for_metrics(site: Site, receiver: Receiver) -> None:
    site.use(webhooks={"breaker_failures": 1, "breaker_wait": timedelta(minutes=5)})
    receiver.answers("/down", then=Answer(500))
    assert open_breakers() == 0
    site.actors.deliver_webhook.send(webhook(receiver, "/down"))
    site.start("webhooks")
    wait_until(lambda: open_breakers() == 1)
    site.stop()


def test_an_open_circuit_uses_no_attempts(site: Site, receiver: Receiver) -> None:
    site.use(
        webhooks={
            "endpoint_concurrency": 1,
            "breaker_failures": 3,
            "breaker_wait": timedelta(seconds=1),
        }
    )
    receiver.answers("/down", *[Answer(500)] * 3, then=Answer(200))
    for _ in range(8):
        site.actors.deliver_webhook.send(webhook(receiver, "/down", endpointId="down"))
    site.work_off("webhooks")
    times = [request.at for request in receiver.of("/down")]
    assert len(times) == 3 + 8
    assert times[3] - times[2] > 0.95  # nothing was sent, then one probe
    assert site.dead("webhooks") == []


def test_a_throttled_endpoint_gets_no_delivery(site: Site, receiver: Receiver) -> None:
    site.use(webhooks={"endpoint_concurrency": 1})
    receiver.answers("/full", Answer(429, headers={"Retry-After": "2"}))
    for _ in range(5):
        site.actors.deliver_webhook.send(webhook(receiver, "/full"))
    site.start("webhooks")
    wait_until(lambda: len(receiver.of("/full")) == 6)
    site.stop()
    first, *others = (request.at for request in receiver.of("/full"))
    assert min(others) - first > 1.9


def test_410_disables_an_endpoint_until_it_is_enabled(
    site: Site, receiver: Receiver, lines: Lines
) -> None:
    site.use(webhooks={"endpoint_concurrency": 1})
    receiver.answers("/gone", Answer(410))
    sent = [
        site.actors.deliver_webhook.send(webhook(receiver, "/gone", endpointId="e1"))
        for _ in range(3)
    ]
    site.work_off("webhooks")
    letters = site.dead("webhooks")
    assert len(receiver.of("/gone")) == 1
    assert sorted(letter.id for letter in letters) == sorted(one.message_id for one in sent)
    assert {letter.failure.reason for letter in letters} == {Reason.PERMANENT}
    assert any("disabled" in letter.failure.message for letter in letters)
    records = deliveries.endpoint_registry()
    wait_until(lambda: records.disabled() == {"e1"})
    wait_until(lambda: "endpoint disabled" in lines.text)

    assert records.enable("e1")
    for letter in letters:
        site.broker.replay("webhooks", letter.id)
    site.work_off("webhooks")
    assert len(receiver.of("/gone")) == 4
    assert site.dead("webhooks") == []


class Stalled(MemoryRegistry):
    """A registry that answers its first question when ``goes_on`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.goes_on = Event(), Event()

    def changes(self, since: Position | None) -> Changes:
        self.is_asked.set()
        self.goes_on.wait(60)
        return super().changes(since)


def test_a_slow_registry_does_not_block_the_event_loop(site: Site, receiver: Receiver) -> None:
    site.start("webhooks")
    for started in deliveries.registry_sync.forget():
        started.stop()
    registry = Stalled()
    limiter = EndpointLimiter(EndpointLimits(in_flight=1))
    rules = DisableRules(failures=10, failing_for=timedelta(days=5))
    deliveries.registry_sync.made.append(RegistrySync(limiter, registry, rules))
    for _ in range(2):
        site.actors.deliver_webhook.send(webhook(receiver, "/hook"))
    assert registry.is_asked.wait(60)
    loop_runs = Event()
    site.broker.async_runner.loop.call_soon_threadsafe(loop_runs.set)  # type: ignore[attr-defined]
    assert loop_runs.wait(30)
    assert receiver.of("/hook") == []  # the endpoint may be disabled
    registry.goes_on.set()
    wait_until(lambda: len(receiver.of("/hook")) == 2)


def test_the_stripe_style_adds_stripes_header(site: Site, receiver: Receiver) -> None:
    site.actors.deliver_webhook.send(webhook(receiver, "/hook", signatureStyle="stripe"))
    site.work_off("webhooks")
    (request,) = receiver.of("/hook")
    header = request.headers["stripe-signature"]
    assert stripe.WebhookSignature.verify_header(request.body.decode(), header, KEY, tolerance=300)
    assert request.headers["webhook-signature"].startswith("v1,")
