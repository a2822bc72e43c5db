"""``payment.update``: reports Stripe's events of a payment to the Django API."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar

from pydantic import (
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 looks for the base's names here
    model_validator,
)

from ..config import WorkerSettings
from ..core.errors import InvalidJob, SinkTransient
from ..core.retry import RetryPolicy
from ..sinks.api import SavedSubmission
from .job import job_actor
from .model import ApiId, Job, JobModel, only
from .resources import api, api_throttle
from .submissions import Submission, send_webhooks

logger = logging.getLogger("formrelay.payments")

#: About an hour: an event may arrive before its submission is saved.
_ATTEMPTS = 60

_STATUS = {
    "payment_intent.succeeded": "completed",
    "checkout.session.completed": "completed",
    "checkout.session.async_payment_succeeded": "completed",
    "checkout.session.async_payment_failed": "payment_failed",
    "payment_intent.payment_failed": "payment_failed",
    "charge.refunded": "refunded",
}


def _plain(value: Any) -> Any:
    """Convert the objects of the package ``stripe`` to dictionaries, in all its versions.

    Up to version 12 they are instances of a subclass of dict, in later versions they are not.
    Other values are returned unchanged.
    """
    if type(value) is not dict and hasattr(type(value), "to_dict"):
        value = value.to_dict()
    match value:
        case Mapping():
            return {name: _plain(item) for name, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case Decimal():  # the package parses decimal texts
            return str(value)
        case datetime():
            return value.isoformat()
    return value


class StripeModel(JobModel):
    """The base of the parts of an event, which may be objects of the package ``stripe``."""

    has_foreign_keys: ClassVar[bool] = True
    # A browser pays with it. Stripe sends it in each payment intent.
    secret_keys: ClassVar[tuple[str, ...]] = ("client_secret",)

    @model_validator(mode="before")
    @classmethod
    def _takes_objects_of_stripe(cls, value: Any) -> Any:
        is_stripes = type(value) is not dict and hasattr(type(value), "to_dict")
        return _plain(value) if is_stripes else value


class PaymentMetadata(StripeModel):
    """The metadata that the form platform set on the payment."""

    submission_id: ApiId | None = None


class PaymentObject(StripeModel):
    """The payment intent, checkout session or charge of an event."""

    metadata: PaymentMetadata | None = None

    def unchecked(self, name: str) -> Any:
        """The value of a field that the schema does not check; None if it is missing."""
        return (self.model_extra or {}).get(name)


class EventData(StripeModel):
    """The field ``data`` of an event."""

    object: PaymentObject


class StripeEvent(StripeModel):
    """An event of Stripe (https://docs.stripe.com/api/events/object)."""

    id: str = Field(min_length=1, max_length=200)
    type: str = Field(
        min_length=1,
        max_length=200,
        pattern=r"^[a-z0-9_.]+$",
        json_schema_extra={**only("a-z0-9_.")},
        description="Event type of Stripe. Events that are not about payments are ignored.",
    )
    created: int = Field(ge=0, lt=2**63, description="Unix seconds.")
    data: EventData

    @property
    def submission_id(self) -> str | None:
        """The submission that is paid; None if the metadata names none."""
        metadata = self.data.object.metadata
        return None if metadata is None else metadata.submission_id


def why_ignored(event: StripeEvent) -> str | None:
    """Why an event changes no submission; None if it does."""
    about = event.data.object
    if event.type not in _STATUS:
        return "not a payment event that formrelay uses"
    if event.submission_id is None:
        return "no submissionId in the metadata"
    if event.type == "checkout.session.completed" and about.unchecked("payment_status") == "unpaid":
        # For example a bank transfer: another event reports its payment.
        return "payment pending"
    if event.type == "charge.refunded" and about.unchecked("refunded") is False:
        return "refunded in part"
    return None


@cache
def _warn_of_missing_id(event_type: str) -> None:
    """Log once per process that events of a type name no submission.

    That is usual for payments of another product in the same account. Otherwise it is a mistake of
    the program that made the payment, and the submission would stay unpaid.
    """
    logger.warning(
        "payment event without a submission: expected metadata.submissionId",
        extra={"event_type": event_type},
    )


class SubmissionMissing(SinkTransient):
    """The API does not have the submission yet."""


def _policy(worker: WorkerSettings) -> RetryPolicy:
    return worker.policy().but(attempts_by_error=((SubmissionMissing, _ATTEMPTS),))


@job_actor(
    "payment.update",
    schema=StripeEvent,
    worker=lambda settings: settings.submissions,
    throttle=api_throttle,
    policy=_policy,
)
def update_payment(job: Job[StripeEvent]) -> None:
    """Report the status to the API, and send webhooks when the submission is completed.

    Other events are done and change nothing; the line of the attempt says why. The API ignores
    older events. An event that arrives twice sends the webhooks twice, with the same webhook-ids.
    """
    event, id = job.payload, job.payload.submission_id
    job.fields["event_type"] = event.type
    why = why_ignored(event)
    if why is not None or id is None:
        job.fields["ignored"] = why
        if event.type in _STATUS and id is None:
            _warn_of_missing_id(event.type)
        return
    status = _STATUS[event.type]
    saved = api().update_payment(id, status=status, event_id=event.id, created=event.created)
    if saved is None:
        raise SubmissionMissing(f"expected the API to have the submission of {event.type}, got 404")
    if status == saved.status == "completed":
        whole = saved if saved.answers is not None else api().get_submission(id)
        if whole is not None:
            send_webhooks(_submission(whole), saved.webhooks)


def _submission(saved: SavedSubmission) -> Submission:
    values: dict[str, Any] = {
        "submissionId": saved.id,
        "formId": saved.form_id,
        "status": saved.status,
        "answers": saved.answers,
        "submittedAt": saved.submitted_at,
    }
    try:
        return Submission.model_validate(values)
    except ValueError:
        raise InvalidJob(
            "expected {id, formId, status, answers, submittedAt} from the API, got JSON of another "
            "shape: check the API's version"
        ) from None
