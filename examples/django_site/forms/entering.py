"""Filling in a form: the jobs that the page sends.

Each step is a transaction. Its jobs are sent when it commits, and dropped when it rolls back.
"""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from formrelay.djangoapp import enqueue

from .models import Entry, Form


class AlreadySubmitted(Exception):
    """The entry was already sent."""


def viewed(form: Form, entry: UUID) -> None:
    """Record that a form was viewed."""
    _event("form_viewed", form, entry)


@transaction.atomic
def autosave(form: Form, id: UUID, answers: dict[str, str]) -> int:
    """Save the current answers and return the revision.

    Raises:
        AlreadySubmitted: the entry was submitted, perhaps in another window.
    """
    entry = _locked(form, id)
    entry.revision += 1
    entry.save(update_fields=["revision"])
    if entry.revision == 1:
        _event("form_started", form, id)
    enqueue(
        "save_partial",
        {
            "partialId": f"par-{id}",
            "formId": form.id,
            "sessionId": str(id),
            "revision": entry.revision,
            "answers": answers,
            "updatedAt": timezone.now().isoformat(),
        },
        {"formId": form.id},
    )
    return entry.revision


@transaction.atomic
def submit(form: Form, id: UUID, answers: dict[str, str]) -> str:
    """Submit the form and return the submission id, which is the same if sent again.

    Raises:
        AlreadySubmitted: the entry was already submitted.
    """
    entry = _locked(form, id)
    entry.submitted_at = timezone.now()
    entry.save(update_fields=["submitted_at"])
    submission = f"sub-{id}"
    enqueue(
        "save_submission",
        {
            "submissionId": submission,
            "formId": form.id,
            "status": "completed",
            "answers": answers,
            "submittedAt": entry.submitted_at.isoformat(),
        },
        {"formId": form.id, "submissionId": submission},
    )
    _event("form_submitted", form, id, submissionId=submission)
    return submission


def reopen(id: UUID) -> None:
    """Allow sending an entry again after its jobs could not be sent."""
    Entry.objects.filter(pk=id).update(submitted_at=None)


def _locked(form: Form, id: UUID) -> Entry:
    Entry.objects.get_or_create(id=id, form=form)
    entry = Entry.objects.select_for_update().get(id=id, form=form)
    if entry.submitted_at is not None:
        raise AlreadySubmitted
    return entry


def _event(type: str, form: Form, entry: UUID, **more: Any) -> None:
    enqueue(
        "record_events",
        {"type": type, "formId": form.id, "sessionId": str(entry), **more},
        {"formId": form.id},
    )
