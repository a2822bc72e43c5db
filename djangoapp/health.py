"""``GET /api/v1/workers/health``: is the broker there; and to staff, what it holds."""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..brokers import NotAvailable, RelayBroker, get_broker
from ..config import get_settings
from ..core.errors import FormrelayError, describe
from ..ops.queues import counts_as_json, worker_as_json
from .access import is_staff
from .discovery import declare_all
from .look import Look

logger = logging.getLogger("formrelay.djangoapp")

#: Seconds; a probe is asked often, and usually given up after some seconds.
_WITHIN = 3.0


@never_cache
@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """200 when the broker answers, else 503.

    Everybody is told ``{"status": "ok"}`` or ``{"status": "down"}`` and no more. Staff get
    the broker, its queues and its workers too; what the broker cannot tell is null.
    """
    if is_staff(request):
        return _answer(_details, _NOTHING)
    return _answer(_status, {})


def _answer(look: Look[dict[str, Any]], otherwise: dict[str, Any]) -> HttpResponse:
    try:
        return JsonResponse({"status": "ok"} | look())
    except Exception as error:
        if not isinstance(error, FormrelayError):  # whoever asks for the health gets an answer
            logger.exception("cannot look at the broker")
        says = {"error": describe(error)} if otherwise else {}
        return JsonResponse({"status": "down"} | says | otherwise, status=503)


def reached() -> RelayBroker:
    """The broker, with every queue declared that has an actor; it has just answered.

    Raises:
        FormrelayError: it cannot be used.
    """
    declare_all()
    broker = get_broker()
    broker.ping()
    return broker


def worker_reports(broker: RelayBroker) -> list[dict[str, Any]] | None:
    """The workers; None where this broker does not tell."""
    try:
        return [worker_as_json(broker, one) for one in broker.inspector.workers()]
    except NotAvailable:
        return None


def _look() -> dict[str, Any]:
    reached()
    return {}


def _look_closely() -> dict[str, Any]:
    broker = reached()
    counts = [broker.inspector.counts(queue) for queue in sorted(broker.queues)]
    return {
        "broker": {"kind": get_settings().broker.kind, "weaknesses": broker.weaknesses()},
        "queues": [counts_as_json(one) for one in counts],
        "workers": worker_reports(broker),
    }


#: The parts of a report about a broker that is down.
_NOTHING: dict[str, Any] = {"broker": None, "queues": None, "workers": None}

_status = Look(_look, within=_WITHIN)
_details = Look(_look_closely, within=_WITHIN)
