"""The Django app: ``INSTALLED_APPS += ["formrelay.djangoapp"]``.

Settings from ``FORMRELAY`` (:mod:`.conf`), jobs sent when the transaction commits
(:func:`enqueue`), system checks (:mod:`.checks`), ``manage.py formrelay_worker``
(:mod:`.worker`), the health view and the dashboard (:mod:`.urls`). No models.

Importing this imports no model, reads no setting and connects to nothing.
"""

from __future__ import annotations

from .sending import enqueue

__all__ = ["enqueue"]
