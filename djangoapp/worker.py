"""The module that Dramatiq loads: ``dramatiq formrelay.djangoapp.worker:broker``.

``manage.py formrelay_worker`` runs that command. It names the broker, so that the project can
keep another global broker, for example that of django-dramatiq.
"""

from __future__ import annotations

import django

django.setup()

from ..ops.worker.boot import boot  # noqa: E402 - the settings must be loaded first
from .connections import DatabaseConnections  # noqa: E402
from .discovery import declare_all  # noqa: E402
from .outbox import check_sends_jobs  # noqa: E402


def _declare() -> None:
    check_sends_jobs()
    declare_all()


broker = boot(_declare)
broker.add_middleware(DatabaseConnections())
