"""Saving idempotently: requests may be repeated, late or out of order."""

import hashlib
import json
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from .models import Form, Partial, Submission, WebhookEndpoint

_IN_ORDER = ["draft", "pending_payment", "payment_failed", "completed", "refunded"]


class Conflict(Exception):
    """The idempotency key belongs to other content, or a newer revision is stored."""


def digest(data: dict[str, Any]) -> str:
    """Hash the content, independent of the order of its keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def form(id: str) -> Form:
    """Return the form with an id, and create it if needed."""
    return Form.objects.get_or_create(id=id)[0]


def save_submission(
    id: str, *, form_id: str, status: str, answers: dict[str, Any], submitted_at: Any
) -> tuple[Submission, bool]:
    """Save a submission once; return it, and whether it is new.

    Raises:
        Conflict: a submission with this id and other content is stored.
    """
    mark = digest(
        {"form": form_id, "status": status, "answers": answers, "at": submitted_at.isoformat()}
    )
    stored = Submission.objects.filter(pk=id).first()
    if stored is None:
        try:
            with transaction.atomic():
                made = Submission.objects.create(
                    id=id,
                    form=form(form_id),
                    status=status,
                    answers=answers,
                    submitted_at=submitted_at,
                    digest=mark,
                )
            return made, True
        except IntegrityError:  # another request was faster
            stored = Submission.objects.get(pk=id)
    if stored.digest != mark:
        raise Conflict("the idempotency key was used with other content")
    return stored, False


def update_payment(id: str, *, status: str, event_id: str, created: int) -> Submission | None:
    """Apply a payment event to a submission; an older event changes nothing.

    Returns:
        The updated submission; None if there is none.
    """
    older = Q(payment_created__lt=created)
    # The provider's times are whole seconds: within one second, the order of the states decides.
    before = _IN_ORDER[: _IN_ORDER.index(status)]
    older |= Q(payment_created=created, status__in=before)
    # One statement, so that the newer of two concurrent events wins.
    Submission.objects.filter(older, pk=id).update(
        status=status, payment_event=event_id, payment_created=created
    )
    return Submission.objects.filter(pk=id).first()


def save_partial(
    id: str,
    *,
    form_id: str,
    session_id: str,
    revision: int,
    answers: dict[str, Any],
    updated_at: Any,
) -> Partial:
    """Store a revision of a partial unless a newer revision is stored.

    Raises:
        Conflict: a newer revision is stored.
    """
    values = {
        "form_id": form(form_id).pk,
        "session_id": session_id,
        "revision": revision,
        "answers": answers,
        "updated_at": updated_at,
    }
    older = Partial.objects.filter(pk=id, revision__lt=revision)
    if not older.update(**values):
        # There is no partial, or a newer one, or another request is creating it.
        _, is_new = Partial.objects.get_or_create(pk=id, defaults=values)
        if not is_new:
            older.update(**values)
    stored = Partial.objects.get(pk=id)
    if stored.revision > revision:
        raise Conflict(f"revision {stored.revision} is stored")
    return stored


def set_webhooks(form_id: str, endpoints: list[dict[str, Any]]) -> None:
    """Replace the webhook endpoints of a form."""
    with transaction.atomic():
        owner = form(form_id)
        owner.webhooks.all().delete()
        WebhookEndpoint.objects.bulk_create(
            WebhookEndpoint(form=owner, **endpoint) for endpoint in endpoints
        )
