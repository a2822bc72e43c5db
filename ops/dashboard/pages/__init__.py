"""The pages, in the order of the navigation."""

from __future__ import annotations

from . import login, overview

ROUTES = (*overview.ROUTES, *login.ROUTES)
