"""The backend for Django's setting ``TASKS``: ``"formrelay.djangoapp.tasks.FormrelayBackend"``.

Importing this module imports neither Django's Tasks API nor the backend (:mod:`.task_backend`),
since django-dramatiq imports the ``tasks`` module of every app, with all modules in it if it is a
package, also in a project that has no Tasks API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .task_backend.backend import FormrelayBackend
    from .task_backend.task import FormrelayTask

__all__ = ["FormrelayBackend", "FormrelayTask"]


def __getattr__(name: str) -> Any:
    if name == "FormrelayBackend":
        from .task_backend.backend import FormrelayBackend

        return FormrelayBackend
    if name == "FormrelayTask":
        from .task_backend.task import FormrelayTask

        return FormrelayTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
