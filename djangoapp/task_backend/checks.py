"""System checks of a backend of ``TASKS``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import django
from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning

from ...config import Settings, get_settings
from ...core.errors import ConfigError, FormrelayError
from .message import is_queue_name


def own_queues(settings: Settings) -> set[str]:
    """The queues of formrelay's own actors."""
    sections = (settings.events, settings.submissions, settings.partials, settings.webhooks)
    return {section.queue for section in (*sections, settings.emails, settings.sheets)}


def check_package() -> Iterator[CheckMessage]:
    """W007: django-tasks is used, but is not an installed app."""
    if django.VERSION < (6, 0) and not apps.is_installed("django_tasks"):
        yield Warning(
            "TASKS uses the package django-tasks, but 'django_tasks' is not in INSTALLED_APPS: "
            "its checks of TASKS do not run, and it logs nothing",
            hint="Add 'django_tasks' to INSTALLED_APPS.",
            id="formrelay.W007",
        )


def check_backend(backend: Any) -> Iterator[CheckMessage]:
    """E005: the app or a queue is wrong. W005: queues without names. W006: no results."""
    where = f"TASKS[{backend.alias!r}]"
    if not apps.is_installed("formrelay.djangoapp"):
        yield Error(
            f"{where} uses formrelay, but 'formrelay.djangoapp' is not in INSTALLED_APPS",
            hint="Add it: it reads the setting FORMRELAY and starts workers.",
            id="formrelay.E005",
        )
        return
    yield from _queues(backend, where)
    try:
        get_settings()
    except ConfigError:
        return  # reported by ../checks.py
    yield from _results(backend, where)


def _queues(backend: Any, where: str) -> Iterator[CheckMessage]:
    if not backend.queues:
        yield Warning(
            f"{where} has no QUEUES: workers consume the queue 'default' and the queues that "
            "@task names, and a task sent to another queue waits for ever",
            hint="List the queues in QUEUES.",
            id="formrelay.W005",
        )
    wrong = sorted(str(name) for name in backend.queues if not is_queue_name(str(name)))
    if wrong:
        yield Error(
            f"expected the names in {where}['QUEUES'] to be letters, digits, '.', '_' and '-', "
            f"got {', '.join(map(repr, wrong))}",
            hint="Rename the queue.",
            id="formrelay.E005",
        )
    try:
        own = own_queues(get_settings()) & set(backend.queues)
    except ConfigError:
        return
    if own:
        yield Error(
            f"expected {where}['QUEUES'] without the queues of formrelay's own actors, got "
            f"{', '.join(sorted(own))}",
            hint="Rename the queue: `formrelay worker` consumes these without Django.",
            id="formrelay.E005",
        )


def _results(backend: Any, where: str) -> Iterator[CheckMessage]:
    try:
        is_kept = backend.parameters.keep_results is None or backend.supports_get_result
    except FormrelayError:
        return
    if not is_kept:
        yield Warning(
            f"{where} keeps no results: RabbitMQ has no place for them, and STATE_URL is not set",
            hint="Set STATE_URL to a Redis, or 'keep_results': None in OPTIONS.",
            id="formrelay.W006",
        )
