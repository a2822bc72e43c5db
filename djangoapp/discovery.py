"""Declaring formrelay's actors, the actors and tasks of each app, and Django's tasks."""

from __future__ import annotations

from django.conf import settings
from django.utils.module_loading import autodiscover_modules

from ..actors import declare_actors


def declare_all() -> set[str]:
    """Declare formrelay's actors, import each app's ``actors.py`` and ``tasks.py``, declare tasks.

    Tasks are those of ``TASKS``, if formrelay is a backend there (:mod:`.task_backend`).

    Returns:
        The queues of ``TASKS``.

    Raises:
        ConfigError: the configuration is wrong.
    """
    declare_actors()  # first, so that plain actors use our broker if no other is set
    autodiscover_modules("actors", "tasks")  # tasks: the usual name in projects with Dramatiq
    if not getattr(settings, "TASKS", None):
        return set()
    from .task_backend.discovery import declare_tasks

    return declare_tasks()
