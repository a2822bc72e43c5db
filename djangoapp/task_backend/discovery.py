"""Finds the tasks of a project for a worker, a command or a view."""

from __future__ import annotations

import logging
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from django.apps import AppConfig, apps
from django.utils.module_loading import module_has_submodule

from ...core.errors import describe
from . import api
from .actors import task_actors
from .backend import FormrelayBackend

logger = logging.getLogger("formrelay.djangoapp")

_OURS = "formrelay.djangoapp"


def declare_tasks() -> set[str]:
    """Declare the queues of formrelay's task backends, and the tasks in every app's ``tasks.py``.

    Does nothing if no backend of ``TASKS`` is formrelay's. Tasks in other modules are imported
    when their first message arrives.

    Returns:
        The queues of the backends; a backend without ``QUEUES`` has the queues of its tasks.

    Raises:
        ConfigError: the configuration is wrong.
        Exception: a module of the project cannot be imported.
    """
    backends = task_backends()
    if not backends:
        return set()
    actors = task_actors()
    queues: set[str] = set()
    for backend in backends:
        queues |= backend.queues or {api.DEFAULT_TASK_QUEUE_NAME}
    for app in apps.get_app_configs():
        module = _tasks_module(app)
        for task in _tasks_in(module) if module is not None else ():
            if isinstance(task.get_backend(), FormrelayBackend):
                queues.add(task.queue_name)
                actors.find(task.module_path)
    for queue in queues:
        actors.broker.declare_queue(queue)
    return queues


def task_backends() -> list[FormrelayBackend]:
    """The backends of ``TASKS`` that are formrelay's."""
    return [backend for backend in api.task_backends.all() if isinstance(backend, FormrelayBackend)]


def _tasks_module(app: AppConfig) -> ModuleType | None:
    """Import the ``tasks`` module of an app; None without one.

    A package of others may have tasks for a library that is not installed.
    """
    if app.name == _OURS or not module_has_submodule(app.module, "tasks"):
        return None
    try:
        return import_module(f"{app.name}.tasks")
    except ImportError as error:
        if not _is_installed_package(app):
            raise
        logger.warning(
            "the tasks of an installed app cannot be imported",
            extra={"app": app.name, "error_message": describe(error)},
        )
        return None


def _tasks_in(module: ModuleType) -> Iterator[Any]:
    for value in vars(module).values():
        if isinstance(value, api.Task) and value.func.__module__ == module.__name__:
            yield value


def _is_installed_package(app: AppConfig) -> bool:
    folders = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    return any(Path(app.path).is_relative_to(folder) for folder in folders)
