"""Restricts views to staff."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.apps import apps
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse

View = Callable[..., HttpResponse]


def is_staff(request: HttpRequest) -> bool:
    """Whether a staff user is logged in; False if the database is unavailable."""
    try:
        user = getattr(request, "user", None)
        return bool(user is not None and user.is_active and user.is_staff)
    except DatabaseError:  # the health view must answer without a database
        return False


def staff_only(view: View) -> View:
    """Require a staff user; redirect others to the login of the admin, or to LOGIN_URL.

    Raises:
        PermissionDenied: django.contrib.auth is not installed.
    """

    @wraps(view)
    def guarded(request: HttpRequest, **arguments: Any) -> HttpResponse:
        if is_staff(request):
            return view(request, **arguments)
        if not apps.is_installed("django.contrib.auth"):
            raise PermissionDenied
        from django.contrib.auth.views import redirect_to_login  # imports models

        answer: HttpResponse = redirect_to_login(request.get_full_path(), _admin_login())
        return answer

    return guarded


def _admin_login() -> str | None:
    try:
        path: str = reverse("admin:login")
    except NoReverseMatch:
        return None
    return path
