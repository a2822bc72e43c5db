"""Creates users and sessions of the project, and sends requests and jobs."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client

from formrelay.djangoapp import enqueue


def add_users() -> None:
    User.objects.create_user("staff", password="staff", is_staff=True)
    User.objects.create_user("other", password="other")
    User.objects.create_superuser("boss", password="boss")


def log_in(name: str) -> str:
    """Log a user in; returns the key of the session."""
    client = Client()
    client.login(username=name, password=name)
    key: str = client.session.session_key
    return key


def write_note() -> None:
    enqueue("write_note", "waits")


def write_note_first() -> int:
    """Send the job before its actor was imported."""
    write_note()
    from formrelay.brokers import get_broker

    return get_broker().counts("notes").waiting


def send_by_name(actor: str, payload: Any) -> str:
    """Send a job by the name of its actor; returns its queue."""
    queue: str = enqueue(actor, payload).queue_name
    return queue


def send_webhook_and_notes(url: str, secret: str) -> None:
    hook = {"url": url, "body": {"a": 1}, "secret": secret}
    with transaction.atomic():
        enqueue("deliver_webhook", hook)
        enqueue("write_note", "one")
        enqueue("write_note", "two")


def plain_actor_is_on_our_broker() -> bool:
    from shop.actors import write_note

    from formrelay.brokers import get_broker

    return write_note.broker is get_broker()


def ask_dashboard() -> list[Any]:
    answer = Client().get("/formrelay/")
    return [answer.status_code, answer["Location"]]


def ask_health() -> list[Any]:
    answer = Client().get("/api/v1/workers/health")
    return [answer.status_code, answer.json()]
