"""Who is staff, and where others go."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.apps import apps
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse

View = Callable[[HttpRequest], HttpResponse]


def is_staff(request: HttpRequest) -> bool:
    """Whether a staff user is logged in; False where that cannot be found out."""
    try:
        user = getattr(request, "user", None)
        return bool(user is not None and user.is_active and user.is_staff)
    except DatabaseError:  # the health of the broker is told without a database too
        return False


def staff_only(view: View) -> View:
    """Let staff in, and send others to the admin's login, or to LOGIN_URL without one.

    Raises:
        PermissionDenied: the project has no users.
    """

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if is_staff(request):
            return view(request)
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
