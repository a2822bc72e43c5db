"""The Django app: ``INSTALLED_APPS += ["formrelay.djangoapp"]``.

Provides settings in ``FORMRELAY`` (:mod:`.conf`), jobs sent when the transaction commits
(:func:`enqueue`, :func:`aenqueue` in async views), a backend of Django's Tasks API
(:mod:`.tasks`), the broker for django-dramatiq (:func:`dramatiq_broker`), system checks
(:mod:`.checks`), ``manage.py formrelay_worker`` (:mod:`.worker`) and ``manage.py formrelay``, a
health view and a dashboard (:mod:`.urls`). It has no models.

Importing this package imports no model, reads no setting and connects to nothing.
"""

from __future__ import annotations

from .dramatiq_broker import dramatiq_broker
from .sending import aenqueue, enqueue

__all__ = ["aenqueue", "dramatiq_broker", "enqueue"]
