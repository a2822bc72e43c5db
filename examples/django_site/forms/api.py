"""The API for workers and other programs."""

import json
from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.http import require_http_methods

from . import saving
from .access import with_token
from .models import Partial, Submission, WebhookEndpoint
from .shapes import Wrong, a_dict, a_number, a_time, one_of, read, text

_PAGE = 100
_SUBMISSION = {
    "submissionId": text(255),
    "formId": text(200),
    "status": one_of("completed", "pending_payment", "draft"),
    "answers": a_dict,
    "submittedAt": a_time,
}
_PAYMENT = {
    "status": one_of("completed", "payment_failed", "refunded"),
    "eventId": text(200),
    "created": a_number,
}
_PARTIAL = {
    "formId": text(200),
    "sessionId": text(200),
    "revision": a_number,
    "answers": a_dict,
    "updatedAt": a_time,
}


@with_token
@require_http_methods(["GET", "POST"])
def submissions(request: HttpRequest) -> HttpResponseBase:
    """``POST`` saves a submission once for its idempotency key; ``GET ?formId=`` lists them."""
    if request.method == "GET":
        return _list(request)
    try:
        data = read(request, _SUBMISSION)
    except Wrong as wrong:
        return _wrong(wrong.errors)
    key = request.headers.get("Idempotency-Key", data["submissionId"])
    if key != data["submissionId"]:
        return _wrong({"submissionId": ["expected the same as the Idempotency-Key"]})
    try:
        stored, is_new = saving.save_submission(
            data["submissionId"],
            form_id=data["formId"],
            status=data["status"],
            answers=data["answers"],
            submitted_at=data["submittedAt"],
        )
    except saving.Conflict as conflict:
        return _wrong({"idempotencyKey": [str(conflict)]}, 409)
    return JsonResponse(_submission(stored), status=201 if is_new else 200)


@with_token
@require_http_methods(["GET"])
def submission(_request: HttpRequest, id: str) -> HttpResponseBase:
    stored = Submission.objects.filter(pk=id).first()
    return _missing("submission") if stored is None else JsonResponse(_whole(stored))


@with_token
@require_http_methods(["PATCH"])
def payment(request: HttpRequest, id: str) -> HttpResponseBase:
    """Update the payment of a submission."""
    try:
        data = read(request, _PAYMENT)
    except Wrong as wrong:
        return _wrong(wrong.errors)
    stored = saving.update_payment(
        id, status=data["status"], event_id=data["eventId"], created=data["created"]
    )
    return _missing("submission") if stored is None else JsonResponse(_submission(stored))


@with_token
@require_http_methods(["GET", "PUT"])
def partial(request: HttpRequest, id: str) -> HttpResponseBase:
    """``PUT`` stores a revision; 409 if a newer revision is stored."""
    if request.method == "GET":
        found = Partial.objects.filter(pk=id).first()
        return _missing("partial") if found is None else JsonResponse(_partial(found))
    try:
        data = read(request, _PARTIAL)
    except Wrong as wrong:
        return _wrong(wrong.errors)
    try:
        stored = saving.save_partial(
            id,
            form_id=data["formId"],
            session_id=data["sessionId"],
            revision=data["revision"],
            answers=data["answers"],
            updated_at=data["updatedAt"],
        )
    except saving.Conflict as conflict:
        return _wrong({"revision": [str(conflict)]}, 409)
    return JsonResponse(_partial(stored))


@with_token
@require_http_methods(["GET", "PUT"])
def webhooks(request: HttpRequest, form_id: str) -> HttpResponseBase:
    """Replace the webhook endpoints of a form."""
    if request.method == "PUT":
        try:
            saving.set_webhooks(form_id, _endpoints(request))
        except Wrong as wrong:
            return _wrong(wrong.errors)
    found = WebhookEndpoint.objects.filter(form_id=form_id)
    return JsonResponse([_endpoint(one) for one in found], safe=False)


def _list(request: HttpRequest) -> JsonResponse:
    found = Submission.objects.order_by("-submitted_at", "id")
    form_id = request.GET.get("formId")
    if form_id:
        found = found.filter(form_id=form_id)
    pages = Paginator(found.prefetch_related("form__webhooks"), _PAGE)
    page = pages.get_page(request.GET.get("page"))
    following = None
    if page.has_next():
        query = request.GET.copy()
        query["page"] = str(page.next_page_number())
        following = request.build_absolute_uri(f"?{query.urlencode()}")
    return JsonResponse(
        {
            "count": pages.count,
            "next": following,
            "results": [_whole(one) for one in page],
        }
    )


def _endpoints(request: HttpRequest) -> list[dict[str, Any]]:
    found = []
    for number, one in enumerate(_a_list(request)):
        if not isinstance(one, dict) or not all(
            isinstance(one.get(name), str) and one[name] for name in ("url", "secret")
        ):
            raise Wrong({str(number): ["expected an object with url and secret"]})
        method, headers = one.get("method") or "POST", one.get("headers") or {}
        if method not in WebhookEndpoint.Method.values or not isinstance(headers, dict):
            raise Wrong({str(number): ["expected method POST or PUT, and headers as an object"]})
        found.append(
            {
                "endpoint_id": str(one.get("id") or f"endpoint-{number + 1}"),
                "url": one["url"],
                "secret": one["secret"],
                "method": method,
                "headers": headers,
            }
        )
    if len({one["endpoint_id"] for one in found}) < len(found):
        raise Wrong({"id": ["expected each id once"]})
    return found


def _a_list(request: HttpRequest) -> list[Any]:
    try:
        found = json.loads(request.body)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise Wrong({"body": ["expected a JSON list"]})
    return found


def _submission(stored: Submission) -> dict[str, Any]:
    return {
        "id": stored.pk,
        "formId": stored.form_id,
        "status": stored.status,
        "webhooks": [_endpoint(one) for one in stored.form.webhooks.all()],
    }


def _whole(stored: Submission) -> dict[str, Any]:
    when = stored.submitted_at.isoformat()
    return _submission(stored) | {"answers": stored.answers, "submittedAt": when}


def _endpoint(one: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": one.endpoint_id,
        "url": one.url,
        "secret": one.secret,
        "method": one.method,
        "headers": one.headers,
    }


def _partial(stored: Partial) -> dict[str, Any]:
    return {
        "id": stored.pk,
        "formId": stored.form_id,
        "sessionId": stored.session_id,
        "revision": stored.revision,
        "answers": stored.answers,
        "updatedAt": stored.updated_at.isoformat(),
    }


def _wrong(errors: dict[str, list[str]], status: int = 400) -> JsonResponse:
    return JsonResponse({"errors": errors}, status=status)


def _missing(what: str) -> JsonResponse:
    return _wrong({"id": [f"no such {what}"]}, 404)
