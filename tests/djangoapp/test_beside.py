"""Beside django-dramatiq, which has a broker and tasks of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.djangoapp.host import Host
from tests.djangoapp.test_worker import worker
from tests.support.waiting import wait_until

pytest.importorskip("django_dramatiq", reason="pip install django-dramatiq")

TASKS = """
import dramatiq
from formrelay.brokers import get_broker
from shop.models import Note


@dramatiq.actor
def theirs(text):
    pass


@dramatiq.actor(broker=get_broker(), queue_name="ours")
def ours(text):
    Note.objects.create(text=text)
"""

FOUND = """
import dramatiq
from datetime import timedelta
from formrelay.brokers import get_broker
from mixed.actors import ours, theirs
from formrelay.actors import save_submission
stub = dramatiq.get_broker()
with transaction.atomic():
    enqueue(theirs, "a")
    enqueue(ours, "b")
    enqueue(theirs, "c", delay=timedelta(minutes=1))
try:
    with transaction.atomic():
        enqueue(theirs, "never")
        raise RuntimeError
except RuntimeError:
    pass
found = [type(stub).__name__, theirs.broker is stub, ours.broker is get_broker(),
         save_submission.broker is get_broker(),
         stub.queues["default"].qsize(), stub.queues["default.DQ"].qsize(),
         get_broker().counts("ours").waiting]
"""


@pytest.mark.parametrize("first", [True, False], ids=["listed before", "listed behind"])
def test_each_broker_keeps_its_own_actors(tmp_path: Path, redis_url: str, first: bool) -> None:
    apps = ["mixed", "django_dramatiq"]
    settings: dict[str, Any] = {
        "FORMRELAY": {"REDIS_URL": redis_url},
        "DRAMATIQ_BROKER": {
            "BROKER": "dramatiq.brokers.stub.StubBroker",
            "OPTIONS": {},
            "MIDDLEWARE": [],
        },
        "FIRST_APPS" if first else "LAST_APPS": apps,
    }
    host = Host(tmp_path, settings=settings)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "__init__.py").touch()
    (tmp_path / "mixed" / "actors.py").write_text(TASKS)
    host.migrate()
    assert host.python(FOUND) == ["StubBroker", True, True, True, 1, 1, 1]
    # The worker takes ours, and django-dramatiq's broker is none of its business.
    with worker(host, "--queue", "ours", "--processes", "1", "--threads", "1"):
        wait_until(lambda: host.notes() == [("b", True)])
    assert host.manage("makemigrations", "--check", "--dry-run").returncode == 0
