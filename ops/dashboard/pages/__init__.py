"""The pages, in the order of the navigation."""

from __future__ import annotations

from . import audit, job, login, overview, queue

ROUTES = (
    *overview.ROUTES,
    *queue.ROUTES,
    *job.ROUTES,
    *audit.ROUTES,
    *login.ROUTES,
)
