"""Asks the dashboard under ASGI."""

from __future__ import annotations

import re
from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.test import AsyncClient, override_settings

from formrelay.brokers import get_broker
from formrelay.ops.audit import open_log

_DEAD = "/formrelay/queue?name=dying&state=dead"


def visit(permissions: list[Any]) -> dict[str, Any]:
    """Ask as staff and as superuser with each setting, then delete a dead letter.

    Returns:
        The roles of `staff`, who may view users, and of `boss`, for each setting. Of the deletion:
        the status, the message, the number of dead letters that are left.
    """
    User.objects.get(username="staff").user_permissions.add(
        Permission.objects.get(codename="view_user")
    )
    found = []
    for permission in permissions:
        with override_settings(FORMRELAY_DASHBOARD_PERMISSION=permission):
            found.append([_role(name) for name in ("staff", "boss")])
    return {"roles": found, "deleted": _delete()}


def _role(name: str) -> str:
    text = _get(_client(name), "/formrelay/")
    shown = re.findall(r'class="who"[^>]*>([^<]+)<', text)
    if not shown:
        assert "expected the setting FORMRELAY_DASHBOARD_PERMISSION" in text
    return shown[0] if shown else "wrong setting"


def _delete() -> list[Any]:
    client = _client("boss")
    id = re.findall(r"queue=dying&amp;id=([^\"]+)", _get(client, _DEAD))[0]
    fields = {"queue": "dying", "id": id, "do": "delete"}
    origin = {"Origin": "http://testserver"}
    done = async_to_sync(client.post)("/formrelay/job/act", fields, headers=origin)
    page = _get(client, done["Location"])
    if get_broker().state is not None:
        entry = open_log().newest().entries[0]
        assert (entry.who, entry.via, entry.action) == ("boss", "django", "dlq delete")
    says = "Deleted" if "The dead letter is deleted." in page else page
    return [done.status_code, says, get_broker().counts("dying").dead]


def _client(name: str) -> AsyncClient:
    client = AsyncClient()
    client.login(username=name, password=name)
    return client


def _get(client: AsyncClient, path: str) -> str:
    text: str = async_to_sync(client.get)(path).content.decode()
    return text
