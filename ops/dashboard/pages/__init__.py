"""The pages, in the order of the navigation."""

from __future__ import annotations

from . import audit, dead, job, login, overview, queue, tasks, webhooks

ROUTES = (
    *overview.ROUTES,
    *queue.ROUTES,
    *job.ROUTES,
    *dead.ROUTES,
    *tasks.ROUTES,
    *webhooks.ROUTES,
    *audit.ROUTES,
    *login.ROUTES,
)
