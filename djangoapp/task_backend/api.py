"""Django's Tasks API: ``django.tasks`` of Django 6, otherwise the package ``django-tasks``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

_PACKAGE = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"

try:
    _api: Any = import_module(_PACKAGE)
except ModuleNotFoundError as error:
    if error.name != "django_tasks":
        raise
    raise ImproperlyConfigured(
        f"expected Django 6, or the package django-tasks for the backend of TASKS, got Django "
        f"{django.get_version()} without it: pip install 'formrelay[django-tasks]'"
    ) from None
_base: Any = import_module(f"{_PACKAGE}.base")
_exceptions: Any = import_module(f"{_PACKAGE}.exceptions")
_signals: Any = import_module(f"{_PACKAGE}.signals")

task_backends = _api.task_backends
DEFAULT_TASK_QUEUE_NAME: str = _api.DEFAULT_TASK_QUEUE_NAME

BaseTaskBackend: Any = import_module(f"{_PACKAGE}.backends.base").BaseTaskBackend
Task: Any = _base.Task
TaskContext: Any = _base.TaskContext
TaskError: Any = _base.TaskError
TaskResult: Any = _base.TaskResult
TaskResultStatus: Any = _base.TaskResultStatus

TaskResultDoesNotExist: Any = _exceptions.TaskResultDoesNotExist
# django-tasks 0.12 has other names than Django.
InvalidTask: Any = getattr(_exceptions, "InvalidTask", None) or _exceptions.InvalidTaskError
InvalidTaskBackend: Any = (
    getattr(_exceptions, "InvalidTaskBackend", None) or _exceptions.InvalidTaskBackendError
)

task_enqueued = _signals.task_enqueued
task_started = _signals.task_started
task_finished = _signals.task_finished

if django.VERSION >= (6, 0):
    normalize_json: Any = import_module("django.utils.json").normalize_json
else:
    normalize_json = import_module(f"{_PACKAGE}.utils").normalize_json
