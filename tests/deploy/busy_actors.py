"""Actors whose jobs have every outcome; a worker of a test imports them."""

from __future__ import annotations

from datetime import timedelta

import dramatiq

from formrelay.brokers import get_broker
from formrelay.core.errors import NotNow
from formrelay.core.throttle import Throttle

broker = get_broker()


@dramatiq.actor(broker=broker, queue_name="chores", throttle=Throttle("laboratory"))
def work() -> None:
    """Is done."""


@dramatiq.actor(broker=broker, queue_name="chores", max_retries=1, min_backoff=10, max_backoff=10)
def fail() -> None:
    """Is retried once, then dead-lettered."""
    raise ValueError


@dramatiq.actor(broker=broker, queue_name="chores")
def later() -> None:
    """Is deferred."""
    raise NotNow("later", after=timedelta(hours=1))


@dramatiq.actor(
    broker=broker, queue_name="letters", batch_size=10, batch_wait=timedelta(milliseconds=50)
)
def post(letters: list[str]) -> None:
    """Is done in batches."""
