"""Sends jobs to django-dramatiq's broker and to formrelay's in one transaction."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import dramatiq
from django.db import transaction
from mixed.actors import ours, theirs

from formrelay.actors import save_submission
from formrelay.brokers import get_broker
from formrelay.djangoapp import enqueue


def send() -> list[Any]:
    stub: Any = dramatiq.get_broker()
    with transaction.atomic():
        enqueue(theirs, "a")
        enqueue(ours, "b")
        enqueue(theirs, "c", delay=timedelta(minutes=1))
    with suppress(RuntimeError), transaction.atomic():
        enqueue(theirs, "never")
        raise RuntimeError
    return [
        type(stub).__name__,
        theirs.broker is stub,
        ours.broker is get_broker(),
        save_submission.broker is get_broker(),
        stub.queues["default"].qsize(),
        stub.queues["default.DQ"].qsize(),
        get_broker().counts("ours").waiting,
    ]
