"""Declares formrelay's actors, the actors and tasks of each app, and Django's tasks."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from django import VERSION
from django.conf import settings
from django.utils.module_loading import autodiscover_modules

from ..actors import declare_actors
from ..config import get_settings
from ..ops.own_actors import import_module


def declare_all() -> set[str]:
    """Declare formrelay's actors, import each app's ``actors.py`` and ``tasks.py``, declare tasks.

    Also imports the modules of FORMRELAY_IMPORTS.

    Declares tasks only if formrelay is a backend in ``TASKS`` (:mod:`.task_backend`).

    Returns:
        The queues of ``TASKS``.

    Raises:
        ConfigError: the configuration is wrong.
    """
    declare_actors()  # first, so that plain actors use our broker if no other is set
    autodiscover_modules("actors", "tasks")  # tasks: the usual name in projects with Dramatiq
    for module in get_settings().imports:
        import_module(module)
    if not may_use_tasks():
        return set()
    from .task_backend.discovery import declare_tasks

    return declare_tasks()


def may_use_tasks() -> bool:
    """Whether formrelay can be a backend of ``TASKS``. Imports no Tasks API.

    Without Django 6 and django-tasks, a project may have a setting of that name for itself.
    """
    backends = getattr(settings, "TASKS", None)
    if not isinstance(backends, Mapping):
        return False
    paths = [each.get("BACKEND") for each in backends.values() if isinstance(each, Mapping)]
    if any(str(path).startswith("formrelay.") for path in paths):
        return True
    return bool(paths) and (VERSION >= (6, 0) or find_spec("django_tasks") is not None)
