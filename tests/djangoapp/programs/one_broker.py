"""Sends and runs a task on formrelay's broker, which django-dramatiq has asked for."""

from __future__ import annotations

from typing import Any

import dramatiq
from django_dramatiq.models import Task
from mixed.actors import theirs

from formrelay.brokers import get_broker
from tests.support.waiting import wait_until


def send_and_run() -> list[Any]:
    broker = get_broker()
    sent = theirs.send("a")
    queued = broker.counts("default").waiting
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=50)
    worker.start()
    found = wait_until(lambda: Task.tasks.filter(id=sent.message_id, status="done").count())
    worker.stop()
    names = [type(each).__name__ for each in broker.middleware]
    return [
        dramatiq.get_broker() is broker,
        theirs.broker is broker,
        queued,
        found,
        [names.count(name) for name in ("Callbacks", "Retries", "Outcomes", "AdminMiddleware")],
        theirs.options["policy"].max_attempts,
    ]
