"""A backend for Django's Tasks API: ``@task`` functions as jobs on formrelay's queues.

The steps of a task, and the files that implement them::

    declare   task.py has the options of a task, options.py those of a backend
    enqueue   backend.py, with message.py; ../commit.py sends
    find      actors.py: one Dramatiq actor for each task; discovery.py for workers
    run       running.py, in a worker thread; coroutine.py for ``async`` tasks
    end       lifecycle.py: signals and stored results (results.py)

Needs Django 6, or the package ``django-tasks`` with an older Django. Importing this package needs
neither: Dramatiq's and Django's tools import the ``tasks`` module of every app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import FormrelayBackend
    from .task import FormrelayTask

__all__ = ["FormrelayBackend", "FormrelayTask"]


def __getattr__(name: str) -> Any:
    if name == "FormrelayBackend":
        from .backend import FormrelayBackend

        return FormrelayBackend
    if name == "FormrelayTask":
        from .task import FormrelayTask

        return FormrelayTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
