"""A retry is an enqueued message to hooks, as with Dramatiq's brokers; a deferral is not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from dramatiq.middleware import Middleware, SkipMessage

from formrelay.core.errors import NotNow, PartsFailed
from tests.support.harness import Harness
from tests.support.waiting import wait_until

SOON = timedelta(milliseconds=10)


class Enqueued(Middleware):
    """Notes the retries and the delay of each message that is enqueued."""

    def __init__(self) -> None:
        self.before: list[tuple[int | None, int | None]] = []
        self.after: list[tuple[int | None, int | None]] = []

    def before_enqueue(self, _broker: Any, message: Any, delay: int | None) -> None:
        self.before.append((message.options.get("retries"), delay))
        if "retries" in message.options:
            raise SkipMessage  # must not lose the message

    def after_enqueue(self, _broker: Any, message: Any, delay: int | None) -> None:
        self.after.append((message.options.get("retries"), delay))


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_hooks_hear_of_a_retry_as_an_enqueued_message(harness: Harness, kind: str) -> None:
    heard, errors = Enqueued(), [ValueError(), NotNow(after=SOON), ValueError()]
    harness.broker.add_middleware(heard)

    def act() -> None:
        if errors:
            raise errors.pop()

    async def act_async() -> None:
        act()

    options: dict[str, Any] = {"max_retries": 2, "min_backoff": 100, "max_backoff": 100}
    if kind == "thread":
        harness.actor(act, **options).send()
    else:
        harness.actor(act_async, in_flight=2, **options).send()
    harness.start()
    wait_until(lambda: not errors and harness.is_empty())
    harness.stop()
    assert heard.before == heard.after
    assert [retries for retries, _ in heard.after] == [None, 1, 2]
    assert all(100 <= delay <= 110 for _, delay in heard.after[1:])
    assert harness.dead() == []


def test_hooks_hear_of_the_parts_of_a_batch_that_are_retried(harness: Harness) -> None:
    heard, errors = Enqueued(), [PartsFailed({1: ValueError()})]
    harness.broker.add_middleware(heard)

    def act(batch: list[Any]) -> None:
        if errors:
            raise errors.pop()

    wait = timedelta(seconds=2)
    actor = harness.actor(act, batch_size=2, batch_wait=wait, min_backoff=1, max_backoff=1)
    actor.send(), actor.send()
    harness.start()
    wait_until(lambda: not errors and harness.is_empty())
    harness.stop()
    assert [retries for retries, _ in heard.after] == [None, None, 1]
