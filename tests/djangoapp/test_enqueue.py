"""Jobs leave when the transaction commits, and only then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.djangoapp.host import Host

#: Before each script: jobs by number, and what was sent, call by call.
PRELUDE = """
from datetime import timedelta
from shop.models import Note
from formrelay.brokers import BrokerUnavailable, MessageTooLarge, State, get_broker
from formrelay.core.errors import InvalidJob
import formrelay.actors

broker = get_broker()
calls = []
really = broker.enqueue_many


def spy(messages):
    messages = list(messages)
    calls.append([number(one) for one in messages])
    return really(messages)


broker.enqueue_many = spy


def number(message):
    payload = message.kwargs.get("payload") or message.args[0]
    return int(payload["submissionId"]) if isinstance(payload, dict) else int(payload)


def job(n, **changes):
    return {"submissionId": str(n), "formId": "f", "status": "completed", "answers": {},
            "submittedAt": "2026-01-31T09:30:00Z"} | changes


def send(*numbers, **options):
    for n in numbers:
        enqueue("save_submission", job(n), **options)


def waiting(queue="submissions"):
    return broker.counts(queue).waiting
"""


def run(host: Host, script: str) -> Any:
    return host.python(PRELUDE + script)


def test_a_commit_sends_and_a_rollback_does_not(host: Host) -> None:
    found = run(
        host,
        """
with transaction.atomic():
    send(1)
    before = waiting()
after = waiting()
try:
    with transaction.atomic():
        Note.objects.create(text="rolled back")
        send(2)
        raise RuntimeError
except RuntimeError:
    pass
with transaction.atomic():
    pass
found = [before, after, waiting(), calls, Note.objects.count()]
""",
    )
    assert found == [0, 1, 1, [[1]], 0]


def test_without_a_transaction_and_with_on_commit_false_it_is_sent_at_once(host: Host) -> None:
    found = run(
        host,
        """
send(1)
try:
    with transaction.atomic():
        send(2, on_commit=False)
        inside = waiting()
        raise RuntimeError
except RuntimeError:
    pass
found = [inside, waiting(), calls]
""",
    )
    assert found == [2, 2, [[1], [2]]]


def test_the_jobs_of_a_transaction_leave_in_one_call_in_their_order(host: Host) -> None:
    found = run(
        host,
        """
with transaction.atomic():
    send(1, 2)
    with transaction.atomic():
        send(3)
    send(4)
found = [calls, waiting()]
if hasattr(broker, "keys"):
    page = broker.inspector.browse("submissions", State.WAITING)
    found.append([number(one.message) for one in page.entries])
else:
    found.append([1, 2, 3, 4])
""",
    )
    assert found == [[[1, 2, 3, 4]], 4, [1, 2, 3, 4]]


SAVEPOINTS = """
def attempt(*numbers):
    try:
        with transaction.atomic():
            send(*numbers)
            raise RuntimeError
    except RuntimeError:
        pass


with transaction.atomic():
    send(1)
    attempt(2, 3)
    with transaction.atomic():
        send(4)
        attempt(5)
        with transaction.atomic():
            send(6)
    send(7)
    attempt(8)
first = [one for call in calls for one in call]
calls.clear()
with transaction.atomic():
    send(10)
    try:
        with transaction.atomic():
            send(11)
            with transaction.atomic():
                send(12)
            send(13)
            raise RuntimeError
    except RuntimeError:
        pass
    with transaction.atomic():
        send(14)
found = [first, [one for call in calls for one in call], waiting()]
"""


def test_what_stands_in_a_savepoint_that_is_rolled_back_is_not_sent(host: Host) -> None:
    assert run(host, SAVEPOINTS) == [[1, 4, 6, 7], [10, 14], 6]


def test_callbacks_of_others_keep_their_place_between_the_jobs(host: Host) -> None:
    found = run(
        host,
        """
with transaction.atomic():
    send(1)
    transaction.on_commit(lambda: calls.append("other"))
    send(2)
found = calls
""",
    )
    assert found == [[1], "other", [2]]


def test_a_job_that_can_never_be_sent_raises_inside_the_transaction(host: Host) -> None:
    found = run(
        host,
        """
found = []
for bad, options in [
    (job(1, answers=[]), {}),
    (job(1, answers={"a": "x" * 2_000_000}), {}),
    (job(1), {"delay": timedelta(days=400)}),
    (job(1), {"delay": timedelta(seconds=-1)}),
    (job(1), {"delay": 5}),
    (job(1), {"broker_priority": 77}),
]:
    try:
        with transaction.atomic():
            Note.objects.create(text="bad")
            enqueue("save_submission", bad, **options)
    except (InvalidJob, MessageTooLarge) as error:
        found.append(type(error).__name__)
try:
    enqueue("no_such_actor", {})
except InvalidJob as error:
    found.append(str(error))
found += [Note.objects.count(), waiting(), calls]
""",
    )
    names, text, rest = found[:6], found[6], found[7:]
    assert names == ["InvalidJob", "MessageTooLarge", *["InvalidJob"] * 4]
    assert "save_submission" in text
    assert "'no_such_actor'" in text
    assert rest == [0, 0, []]


def test_an_actor_is_ours_or_the_projects_by_itself_or_by_name(host: Host) -> None:
    found = run(
        host,
        """
from shop.actors import write_note
sent = [
    enqueue(formrelay.actors.save_submission, job(1), {"formId": "f"}),
    enqueue("save_submission", job(2)),
    enqueue(write_note, "3"),
    enqueue("write_note", "4"),
]
found = [[one.actor_name for one in sent], sent[0].kwargs["metadata"]["formId"],
         waiting(), waiting("notes"), write_note.broker is broker]
""",
    )
    names = ["save_submission", "save_submission", "write_note", "write_note"]
    assert found == [names, "f", 2, 2, True]


def test_a_name_is_enough_where_nothing_has_been_imported(host: Host) -> None:
    found = host.python(
        """
enqueue("write_note", "1")
from formrelay.brokers import get_broker
found = get_broker().counts("notes").waiting
"""
    )
    assert found == 1


def test_a_plain_actor_that_is_imported_first_stands_on_our_broker(tmp_path: Path) -> None:
    host = Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": "redis://127.0.0.1:1/0"}})
    found = host.python(
        """
from shop.actors import write_note
from formrelay.brokers import get_broker
found = write_note.broker is get_broker()
"""
    )
    assert found is True


def test_a_delayed_job_is_scheduled_from_the_call_on(host: Host) -> None:
    found = run(
        host,
        """
import time
with transaction.atomic():
    message = enqueue("save_submission", job(1), delay=timedelta(hours=1))
    send(2)
found = [message.options["eta"] / 1000 - time.time(), waiting(), calls,
         broker.counts("submissions").scheduled]
""",
    )
    due, waits, calls, scheduled = found
    assert 3500 < due <= 3600
    assert (waits, calls) == (1, [[1, 2]])
    assert scheduled in (1, None)  # RabbitMQ cannot count them by queue


AWAY = """
found = []
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
"""


@pytest.mark.parametrize(
    "url", [{"REDIS_URL": "redis://:secret@127.0.0.1:1/0"},
            {"RABBITMQ_URL": "amqp://user:secret@127.0.0.1:1/"}]
)  # fmt: skip
def test_a_broker_that_is_away_after_the_commit_is_told_to_the_caller(
    tmp_path: Path, url: dict[str, str]
) -> None:
    host = Host(tmp_path, settings={"FORMRELAY": url}).migrate()
    one, two, count, outside = run(host, AWAY)
    assert "the transaction is committed, but its job was not sent (save_submission " in one
    assert "committed, but not all of its 2 jobs were sent" in two
    assert count == 2
    assert "committed" not in outside
    for text in (one, two, outside):
        assert "127.0.0.1:1" in text
        assert "secret" not in text


CAPTURED = """
from django.test import TestCase
from django.test.utils import get_runner
from django.conf import settings
import unittest


class Case(TestCase):
    def setUp(self):
        send(1)  # nobody commits it

    def test_captured(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            send(2, 3)
        self.assertEqual((len(callbacks), calls), (2, [[2, 3]]))
        with self.captureOnCommitCallbacks() as kept:
            send(4)
        with self.captureOnCommitCallbacks(execute=True):
            send(5)
        self.assertEqual(calls, [[2, 3], [5]])
        for one in kept:
            one()
        self.assertEqual(calls, [[2, 3], [5], [4]])


from django.test.runner import DiscoverRunner
runner = DiscoverRunner(verbosity=0, interactive=False)
databases = runner.setup_databases()
result = unittest.TextTestRunner().run(
    unittest.defaultTestLoader.loadTestsFromTestCase(Case))
runner.teardown_databases(databases)
found = [result.wasSuccessful(), [text for _, text in result.failures + result.errors], waiting()]
"""


def test_the_tests_of_a_project_can_catch_the_callbacks(host: Host) -> None:
    assert run(host, CAPTURED) == [True, [], 4]


def test_with_atomic_requests_a_view_that_fails_sends_nothing(host: Host) -> None:
    found = run(
        host,
        """
from django.test import Client
client = Client(raise_request_exception=False)
found = []
for query in ("id=1", "id=2&then=fail", "id=3&then=refuse"):
    found.append([client.get(f"/submit/?{query}").status_code, waiting(), Note.objects.count()])
""",
    )
    assert found == [[201, 1, 1], [500, 1, 1], [500, 1, 1]]


def test_many_jobs_of_one_transaction_are_linked_in_no_time(host: Host) -> None:
    found = run(
        host,
        """
with transaction.atomic():
    for n in range(1500):
        with transaction.atomic():
            send(n)
        enqueue("save_submission", job(n))
found = [len(calls), calls[0] == [n for n in range(1500) for _ in (1, 2)], waiting()]
""",
    )
    assert found == [1, True, 3000]
