"""The pages, in the order of the navigation."""

from __future__ import annotations

from . import audit, login, overview

ROUTES = (*overview.ROUTES, *audit.ROUTES, *login.ROUTES)
