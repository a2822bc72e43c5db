"""The pages, in the order of the navigation."""

from __future__ import annotations

from . import audit, dead, email, health, job, login, overview, queue, sheets, tasks, webhooks

ROUTES = (
    *overview.ROUTES,
    *queue.ROUTES,
    *job.ROUTES,
    *dead.ROUTES,
    *tasks.ROUTES,
    *webhooks.ROUTES,
    *email.ROUTES,
    *sheets.ROUTES,
    *audit.ROUTES,
    *health.ROUTES,
    *login.ROUTES,
)
