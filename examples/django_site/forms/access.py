"""API authentication with bearer tokens, from the environment or the admin."""

import hmac
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from .models import ApiToken


def with_token(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Require a valid token; answer 401 without one."""

    @csrf_exempt
    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not _is_known(token.strip()):
            answer = JsonResponse({"errors": {"token": ["expected a bearer token"]}}, status=401)
            answer["WWW-Authenticate"] = "Bearer"
            return answer
        return view(request, *args, **kwargs)

    return checked


def _is_known(token: str) -> bool:
    if not token:
        return False
    ours = settings.API_TOKEN
    if ours and hmac.compare_digest(token.encode(), ours.encode()):
        return True
    return ApiToken.objects.filter(digest=ApiToken.digest_of(token), is_active=True).exists()
