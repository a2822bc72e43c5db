"""``dramatiq formrelay.djangoapp.worker:broker`` starts workers with the project's settings.

``manage.py formrelay_worker`` runs that. By name and not as Dramatiq's global broker, which
stays what it is (django-dramatiq's, say).
"""

from __future__ import annotations

import django

django.setup()

from ..ops.boot import boot  # noqa: E402 - the settings come first
from .connections import DatabaseConnections  # noqa: E402
from .discovery import declare_all  # noqa: E402

broker = boot(declare_all)
broker.add_middleware(DatabaseConnections())
