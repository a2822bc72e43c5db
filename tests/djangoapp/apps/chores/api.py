"""Django's Tasks API, of Django itself or of the package."""

import django

if django.VERSION >= (6, 0):
    from django.tasks import TaskContext, default_task_backend, signals, task, task_backends
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
else:
    from django_tasks import TaskContext, default_task_backend, signals, task, task_backends
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist

__all__ = [
    "InvalidTask",
    "TaskContext",
    "TaskResultDoesNotExist",
    "default_task_backend",
    "signals",
    "task",
    "task_backends",
]
