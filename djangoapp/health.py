"""``GET /api/v1/workers/health``: whether the broker answers; for staff, also its workers."""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..brokers import RelayBroker, get_broker
from ..core.errors import FormrelayError, describe
from ..ops.health.summary import NOTHING_KNOWN, worker_health
from .access import is_staff
from .discovery import declare_all
from .shared_call import SharedCall

logger = logging.getLogger("formrelay.djangoapp")

#: Short, because probes give up after a few seconds.
_TIMEOUT_SECONDS = 3.0


@never_cache
@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """Answer 200 if the broker answers, else 503.

    The body is ``{"status": "ok"}`` or ``{"status": "down"}``. Staff also get the broker, its
    queues, its workers and their problems, with the status ``degraded`` if there are problems;
    null means not available on this broker.
    """
    if is_staff(request):
        return _answer(_details, NOTHING_KNOWN)
    return _answer(_status, {})


def _answer(call: SharedCall[dict[str, Any]], if_down: dict[str, Any]) -> HttpResponse:
    try:
        return JsonResponse({"status": "ok"} | call())
    except Exception as error:
        if not isinstance(error, FormrelayError):  # a health check must always get an answer
            logger.exception("health check failed")
        says = {"error": describe(error)} if if_down else {}
        return JsonResponse({"status": "down"} | says | if_down, status=503)


def open_broker() -> RelayBroker:
    """Declare all actors, ping the broker and return it.

    Raises:
        FormrelayError: the broker cannot be used.
    """
    declare_all()
    broker = get_broker()
    broker.ping()
    return broker


def _load_status() -> dict[str, Any]:
    open_broker()
    return {}


def _load_details() -> dict[str, Any]:
    return worker_health(open_broker())


_status = SharedCall(_load_status, timeout=_TIMEOUT_SECONDS)
_details = SharedCall(_load_details, timeout=_TIMEOUT_SECONDS)
