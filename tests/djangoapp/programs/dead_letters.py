"""Creates dead letters whose error contains HTML."""

from __future__ import annotations

import dramatiq
from dramatiq import Worker

import formrelay.actors
from formrelay.brokers import get_broker
from formrelay.core.errors import SinkPermanent
from formrelay.djangoapp import enqueue
from tests.support.waiting import wait_until


def make(count: int) -> int:
    """Create ``count`` dead letters; returns the number on the queue."""
    broker = get_broker()

    @dramatiq.actor(queue_name="dying", broker=broker)
    def die(number: int, answer: str) -> None:
        raise SinkPermanent(f'<script>alert({number})</script> & "more"')

    def dead() -> int | None:
        return broker.counts("dying").dead

    worker = Worker(broker, queues={"dying"}, worker_threads=1)
    worker.start()
    for numbers in (range(count - 5), range(count - 5, count)):  # the last five are the newest
        for number in numbers:
            die.send(number, "PAYLOAD")
        wait_until(lambda numbers=numbers: dead() == numbers.stop)
    worker.stop()
    enqueue("write_note", "waits")
    return dead() or 0
