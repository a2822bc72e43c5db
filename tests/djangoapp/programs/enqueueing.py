"""Sends numbered jobs in transactions; `calls` records the numbers that the broker got."""

from __future__ import annotations

import time
import unittest
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import dramatiq
from django.db import transaction
from django.test import Client, TestCase
from django.test.runner import DiscoverRunner
from shop.actors import write_note
from shop.models import Note

import formrelay.actors
from formrelay.brokers import BrokerUnavailable, MessageTooLarge, State, get_broker
from formrelay.core.errors import InvalidJob
from formrelay.djangoapp import enqueue

broker: Any = get_broker()
calls: list[Any] = []
_really = broker.enqueue_many


def _spy(messages: Iterable[dramatiq.Message[Any]]) -> Any:
    messages = list(messages)
    calls.append([number(one) for one in messages])
    return _really(messages)


broker.enqueue_many = _spy


def number(message: dramatiq.Message[Any]) -> int:
    payload = message.kwargs.get("payload") or message.args[0]
    return int(payload["submissionId"]) if isinstance(payload, dict) else int(payload)


def job(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "submissionId": str(number),
        "formId": "f",
        "status": "completed",
        "answers": {},
        "submittedAt": "2026-01-31T09:30:00Z",
    } | changes


def send(*numbers: int, **options: Any) -> None:
    for one in numbers:
        enqueue("save_submission", job(one), **options)


def waiting(queue: str = "submissions") -> int:
    count: int = broker.counts(queue).waiting
    return count


@contextmanager
def rolled_back() -> Iterator[None]:
    """Roll back a transaction or a savepoint."""
    with suppress(RuntimeError), transaction.atomic():
        yield
        raise RuntimeError


def commit_and_rollback() -> list[Any]:
    with transaction.atomic():
        send(1)
        before = waiting()
    after = waiting()
    with rolled_back():
        Note.objects.create(text="rolled back")
        send(2)
    with transaction.atomic():
        pass
    return [before, after, waiting(), calls, Note.objects.count()]


def at_once() -> list[Any]:
    send(1)
    with rolled_back():
        send(2, on_commit=False)
        inside = waiting()
    return [inside, waiting(), calls]


def in_one_call() -> list[Any]:
    with transaction.atomic():
        send(1, 2)
        with transaction.atomic():
            send(3)
        send(4)
    order = [1, 2, 3, 4]
    if hasattr(broker, "keys"):
        page = broker.inspector.browse("submissions", State.WAITING)
        order = [number(one.message) for one in page.entries]
    return [calls, waiting(), order]


def savepoints() -> list[Any]:
    with transaction.atomic():
        send(1)
        with rolled_back():
            send(2, 3)
        with transaction.atomic():
            send(4)
            with rolled_back():
                send(5)
            with transaction.atomic():
                send(6)
        send(7)
        with rolled_back():
            send(8)
    first = [one for call in calls for one in call]
    calls.clear()
    with transaction.atomic():
        send(10)
        with rolled_back():
            send(11)
            with transaction.atomic():
                send(12)
            send(13)
        with transaction.atomic():
            send(14)
    return [first, [one for call in calls for one in call], waiting()]


def callback_between() -> list[Any]:
    with transaction.atomic():
        send(1)
        transaction.on_commit(lambda: calls.append("other"))
        send(2)
    return calls


def bad_jobs() -> list[Any]:
    found: list[Any] = []
    bad: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (job(1, answers=[]), {}),
        (job(1, answers={"a": "x" * 2_000_000}), {}),
        (job(1), {"delay": timedelta(days=400)}),
        (job(1), {"delay": timedelta(seconds=-1)}),
        (job(1), {"delay": 5}),
        (job(1), {"broker_priority": 77}),
    ]
    for payload, options in bad:
        try:
            with transaction.atomic():
                Note.objects.create(text="bad")
                enqueue("save_submission", payload, **options)
        except (InvalidJob, MessageTooLarge) as error:
            found.append(type(error).__name__)
    try:
        enqueue("no_such_actor", {})
    except InvalidJob as error:
        found.append(str(error))
    return [*found, Note.objects.count(), waiting(), calls]


def actors_and_names() -> list[Any]:
    sent = [
        enqueue(formrelay.actors.save_submission, job(1), {"formId": "f"}),
        enqueue("save_submission", job(2)),
        enqueue(write_note, "3"),
        enqueue("write_note", "4"),
    ]
    return [
        [one.actor_name for one in sent],
        sent[0].kwargs["metadata"]["formId"],
        waiting(),
        waiting("notes"),
        write_note.broker is broker,
    ]


def delayed() -> list[Any]:
    with transaction.atomic():
        message = enqueue("save_submission", job(1), delay=timedelta(hours=1))
        send(2)
    due = message.options["eta"] / 1000 - time.time()
    return [due, waiting(), calls, broker.counts("submissions").scheduled]


def broker_is_away() -> list[Any]:
    found: list[Any] = []
    for jobs in ([1], [2, 3]):
        try:
            with transaction.atomic():
                Note.objects.create(text="kept")
                send(*jobs)
        except BrokerUnavailable as error:
            found.append(str(error))
    found.append(Note.objects.count())
    try:
        send(4)
    except BrokerUnavailable as error:
        found.append(str(error))
    return found


class Captured(TestCase):
    """A test of the project, in a transaction that is never committed."""

    def setUp(self) -> None:
        send(1)

    def test_captured(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            send(2, 3)
        assert (len(callbacks), calls) == (2, [[2, 3]])
        with self.captureOnCommitCallbacks() as kept:
            send(4)
        with self.captureOnCommitCallbacks(execute=True):
            send(5)
        assert calls == [[2, 3], [5]]
        for one in kept:
            one()
        assert calls == [[2, 3], [5], [4]]


def captured() -> list[Any]:
    runner = DiscoverRunner(verbosity=0, interactive=False)
    databases = runner.setup_databases()
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Captured)
    result = unittest.TextTestRunner().run(suite)
    runner.teardown_databases(databases)
    failures = [text for _, text in result.failures + result.errors]
    return [result.wasSuccessful(), failures, waiting()]


def atomic_requests() -> list[Any]:
    client = Client(raise_request_exception=False)
    found = []
    for query in ("id=1", "id=2&then=fail", "id=3&then=refuse"):
        status = client.get(f"/submit/?{query}").status_code
        found.append([status, waiting(), Note.objects.count()])
    return found


def many() -> list[Any]:
    with transaction.atomic():
        for one in range(300):
            with transaction.atomic():
                send(one)
            enqueue("save_submission", job(one))
    return [len(calls), calls[0] == [one for one in range(300) for _ in (1, 2)], waiting()]
