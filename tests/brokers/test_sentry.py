"""Sentry's error report of an attempt contains no payload of another attempt.

Runs on one broker only; the contract's test_contexts.py tests all brokers, without Sentry.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.integrations.dramatiq import DramatiqIntegration
from sentry_sdk.transport import Transport

from formrelay.brokers.redis.broker import RedisBroker
from tests.brokers.contract.test_awaiting import SOON, Reply, awaiting
from tests.support.harness import Harness
from tests.support.waiting import wait_until

logger = logging.getLogger("formrelay.tests.sentry")


class Reports(Transport):
    """A transport that keeps the reports instead of sending them."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(event)


@pytest.fixture
def reports() -> Iterator[Reports]:
    reports = Reports()
    sentry_sdk.init(
        dsn="https://key@127.0.0.1/1",
        transport=reports,
        integrations=[DramatiqIntegration()],
        auto_enabling_integrations=False,
    )
    yield reports
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)  # its patches do nothing without a client


@pytest.fixture
def harness(reports: Reports, redis_url: str, unique: str) -> Iterator[Harness]:
    harness = Harness(RedisBroker(redis_url), unique)
    yield harness
    harness.close()


@pytest.mark.redis
@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_report_has_the_payload_of_its_own_attempt_alone(
    harness: Harness, reports: Reports, kind: str
) -> None:
    secrets = [f"secret-{number:02}" for number in range(30)]
    replies = [Reply() for _ in secrets]  # no list of secrets: reports contain local variables

    def begin(secret: str) -> None:
        sentry_sdk.set_tag("customer", secret)
        sentry_sdk.add_breadcrumb(message=f"begun {secret}")
        logger.error("failing %s", secret)

    def work(secret: str) -> None:
        begin(secret)
        raise ValueError(secret)

    async def wait(secret: str) -> None:
        begin(secret)
        await replies[int(secret.removeprefix("secret-"))]
        raise ValueError(secret)

    policy = SOON.but(max_attempts=1)
    if kind == "thread":
        actor = harness.actor(work, policy=policy)
    else:
        actor = awaiting(harness, wait, policy=policy)
    for secret in secrets:
        actor.send(secret)
    harness.start(threads=2)
    if kind == "async":
        for reply in replies:  # all have started before the first fails
            assert reply.is_awaited.wait(60)
        for reply in replies:
            reply.give()
    wait_until(lambda: len(harness.dead()) == 30)
    failures = [event for event in reports.events if "exception" in event]
    assert len(failures) >= 30
    for event in reports.events:
        text = str(event)
        mine = [secret for secret in secrets if secret in text]
        assert len(mine) <= 1, text
        if "exception" in event:
            assert event["tags"]["customer"] == mine[0]
